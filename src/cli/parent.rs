//! A member that was started by `quorate dev` must not outlive it, however it dies. The parent holds the other end of
//! the child's standard input: when that ends, the parent is gone.

use std::io::Read;

use anyhow::Context;
use tokio::sync::oneshot;

/// Watches standard input from a thread of its own; the future resolves when it ends.
pub(super) fn gone() -> anyhow::Result<impl Future<Output = ()> + Send> {
    let (tell, told) = oneshot::channel::<()>();
    let watch = move || {
        let mut input = std::io::stdin().lock();
        let mut ignored = [0u8; 256];
        while matches!(input.read(&mut ignored), Ok(read) if read > 0) {}
        drop(tell);
    };
    std::thread::Builder::new().name("parent-watch".into()).spawn(watch).context("cannot start a thread")?;
    Ok(async move {
        // The sender sends nothing: that it is gone is the message.
        let _ = told.await;
    })
}
