//! Where the runtime is chosen: tokio, or the simulator's tokio.
//!
//! openraft measures leases with this runtime's [`Instant`]. `std::time::Instant` stands still while
//! the machine is suspended; a leader that wakes up would believe in a lease that has long expired.
//! So the clock here is CLOCK_BOOTTIME, which goes on. Nothing else in this crate reads a clock for
//! a decision about leadership.

use std::fmt;
use std::future::Future;
use std::io;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use openraft_rt::{AsyncRuntime, OptionalSend};

/// A moment on a clock that counts suspend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(Duration);

impl Instant {
    /// Now.
    pub fn now() -> Self {
        Self(boot_clock())
    }

    /// Nanoseconds since an arbitrary beginning; for atomics.
    pub fn as_nanos(self) -> u64 {
        u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX)
    }

    /// How long ago it was; zero if it lies ahead.
    pub fn elapsed(self) -> Duration {
        boot_clock().saturating_sub(self.0)
    }
}

#[cfg(all(not(madsim), any(target_os = "linux", target_os = "android")))]
fn boot_clock() -> Duration {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(t.tv_sec.unsigned_abs(), u32::try_from(t.tv_nsec).unwrap_or(0))
}

// Elsewhere CLOCK_MONOTONIC is the best there is (on macOS it counts sleep).
#[cfg(all(not(madsim), not(any(target_os = "linux", target_os = "android"))))]
fn boot_clock() -> Duration {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(t.tv_sec.unsigned_abs(), u32::try_from(t.tv_nsec).unwrap_or(0))
}

#[cfg(madsim)]
fn boot_clock() -> Duration {
    // The simulator's clock is an `Instant` that only goes on as it lets it; its own beginning is as
    // good as any other.
    thread_local!(static START: std::cell::Cell<Option<tokio::time::Instant>> = const { std::cell::Cell::new(None) });
    let now = tokio::time::Instant::now();
    let start = START.with(|s| match s.get() {
        Some(start) if start <= now => start,
        _ => {
            s.set(Some(now));
            now
        }
    });
    let since = u64::try_from(now.duration_since(start).as_nanos()).unwrap_or(u64::MAX);
    let since = clock_rate().map_or(since, |millionths| since / 1000 * millionths / 1000);
    // An hour of room, so that `now - lease` never meets the beginning of time.
    Duration::from_nanos(since) + Duration::from_secs(3600)
}

#[cfg(madsim)]
thread_local! {
    static RATES: std::cell::RefCell<std::collections::HashMap<madsim::task::NodeId, u64>> = std::cell::RefCell::default();
}

#[cfg(madsim)]
fn clock_rate() -> Option<u64> {
    RATES.with_borrow(|rates| rates.get(&madsim::plugin::node()).copied())
}

/// The clock of that simulated machine goes so many millionths as fast as it ought to. Set before the machine is used.
#[cfg(madsim)]
pub fn set_clock_rate(machine: madsim::task::NodeId, millionths: u64) {
    RATES.with_borrow_mut(|rates| rates.insert(machine, millionths));
}

/// Sleeps for so long by the clock of [`Instant`].
pub(crate) fn sleep(time: Duration) -> tokio::time::Sleep {
    #[cfg(madsim)]
    let time = match clock_rate() {
        Some(millionths) => time.saturating_mul(1_000_000) / u32::try_from(millionths).unwrap_or(u32::MAX),
        None => time,
    };
    tokio::time::sleep(time)
}

/// Chance for ids and nonces; the simulator's own where it runs.
pub(crate) fn random_u128() -> u128 {
    #[cfg(madsim)]
    {
        madsim::rand::random()
    }
    #[cfg(not(madsim))]
    {
        rand::random()
    }
}

/// A runtime to start tasks on, from wherever.
///
/// Consensus may have a thread of its own beside the one that serves clients: what one asks of the other must not
/// run where it was asked.
#[derive(Clone, Debug)]
pub struct Spawner {
    #[cfg(not(madsim))]
    handle: tokio::runtime::Handle,
}

impl Spawner {
    /// The runtime of the calling task.
    ///
    /// # Panics
    ///
    /// Outside of a runtime.
    pub fn current() -> Self {
        Self {
            #[cfg(not(madsim))]
            handle: tokio::runtime::Handle::current(),
        }
    }

    /// Starts a task there.
    pub fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        // The simulator has one thread; a task belongs to the member that starts it.
        #[cfg(madsim)]
        return tokio::spawn(task);
        #[cfg(not(madsim))]
        self.handle.spawn(task)
    }
}

/// Runs work that blocks (disk, large encodings) where it doesn't hold up the runtime.
pub(crate) async fn blocking<T, F>(work: F) -> io::Result<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    #[cfg(madsim)]
    let done = tokio::spawn(taking_its_time(work));
    #[cfg(not(madsim))]
    let done = tokio::task::spawn_blocking(work);
    done.await.map_err(io::Error::other)
}

/// The simulator has one thread, but work that blocks takes time there too: mostly little, now and then much. As a task it
/// goes on when nobody waits for it any more, as in a thread.
#[cfg(madsim)]
async fn taking_its_time<T>(work: impl FnOnce() -> T) -> T {
    let before = madsim::rand::random::<u64>();
    let most_us = if before.is_multiple_of(8) { 150_000 } else { 1_000 };
    tokio::time::sleep(Duration::from_micros((before >> 8) % most_us)).await;
    let done = work();
    tokio::time::sleep(Duration::from_micros((before >> 32) % most_us)).await;
    done
}

/// A thread for work that gives way to everything else: the scheduler lets it run where nobody else wants to.
pub(crate) struct Background {
    #[cfg(not(madsim))]
    jobs: std::sync::mpsc::Sender<Box<dyn FnOnce() + Send>>,
}

#[cfg(not(madsim))]
impl Background {
    /// Starts the thread; it ends with this.
    pub(crate) fn start() -> io::Result<Self> {
        let (jobs, queue) = std::sync::mpsc::channel::<Box<dyn FnOnce() + Send>>();
        std::thread::Builder::new().name("checkpoint".to_owned()).spawn(move || {
            give_way();
            queue.into_iter().for_each(|job| job());
        })?;
        Ok(Self { jobs })
    }

    /// Runs work that blocks, after what was given before.
    pub(crate) async fn run<T, F>(&self, work: F) -> io::Result<T>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let (tell, told) = tokio::sync::oneshot::channel();
        let gone = |_| io::Error::other("the thread of the background has ended");
        self.jobs.send(Box::new(move || drop(tell.send(work())))).map_err(|_| gone(()))?;
        told.await.map_err(|_| gone(()))
    }
}

/// The simulator has one thread.
#[cfg(madsim)]
impl Background {
    pub(crate) fn start() -> io::Result<Self> {
        Ok(Self {})
    }

    pub(crate) async fn run<T, F>(&self, work: F) -> io::Result<T>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        blocking(work).await
    }
}

/// Lowers the priority of the calling thread. It needs no right, and can't be taken back without one.
#[cfg(all(not(madsim), any(target_os = "linux", target_os = "android")))]
fn give_way() {
    const NICE: i32 = 19;
    // Linux counts priorities by thread, not by process as POSIX has it.
    if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE) {
        tracing::debug!(%error, "checkpoints are written at the priority of everything else");
    }
}

// Elsewhere it would be the priority of the process.
#[cfg(all(not(madsim), not(any(target_os = "linux", target_os = "android"))))]
fn give_way() {}

impl Add<Duration> for Instant {
    type Output = Self;
    fn add(self, d: Duration) -> Self {
        Self(self.0.saturating_add(d))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, d: Duration) {
        *self = *self + d;
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;
    fn sub(self, d: Duration) -> Self {
        Self(self.0.saturating_sub(d))
    }
}

impl SubAssign<Duration> for Instant {
    fn sub_assign(&mut self, d: Duration) {
        *self = *self - d;
    }
}

impl Sub<Instant> for Instant {
    type Output = Duration;
    fn sub(self, earlier: Instant) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl openraft_rt::Instant for Instant {
    fn now() -> Self {
        Instant::now()
    }
}

/// A [`Timeout`] ran out.
#[derive(Debug)]
pub struct Elapsed;

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the time ran out")
    }
}

pin_project_lite::pin_project! {
    /// A future with a deadline. A type of its own because the simulator's tokio has only a function.
    pub struct Timeout<F> {
        #[pin]
        future: F,
        #[pin]
        sleep: tokio::time::Sleep,
    }
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(value) = this.future.poll(cx) {
            return Poll::Ready(Ok(value));
        }
        this.sleep.poll(cx).map(|()| Err(Elapsed))
    }
}

#[cfg(not(madsim))]
type Inner = openraft_rt_tokio::TokioRuntime;

/// The runtime that openraft runs on.
#[derive(Debug)]
pub struct Runtime {
    #[cfg(not(madsim))]
    inner: Inner,
}

impl AsyncRuntime for Runtime {
    type JoinError = tokio::task::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = tokio::task::JoinHandle<T>;
    type Sleep = tokio::time::Sleep;
    type Instant = Instant;
    type TimeoutError = Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = Timeout<T>;
    #[cfg(not(madsim))]
    type ThreadLocalRng = <Inner as AsyncRuntime>::ThreadLocalRng;
    #[cfg(madsim)]
    type ThreadLocalRng = rand_next::rngs::SmallRng;

    #[track_caller]
    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        tokio::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        sleep(duration)
    }

    fn sleep_until(deadline: Instant) -> Self::Sleep {
        sleep(deadline - Instant::now())
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        Timeout { future, sleep: Self::sleep(duration) }
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: Instant, future: F) -> Self::Timeout<R, F> {
        Timeout { future, sleep: Self::sleep_until(deadline) }
    }

    fn is_panic(error: &Self::JoinError) -> bool {
        error.is_panic()
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        #[cfg(not(madsim))]
        {
            Inner::thread_rng()
        }
        #[cfg(madsim)]
        {
            rand_next::SeedableRng::seed_from_u64(madsim::rand::random::<u64>())
        }
    }

    type Mpsc = openraft_rt_tokio::TokioMpsc;
    #[cfg(not(madsim))]
    type Watch = openraft_rt_tokio::TokioWatch;
    // tokio's watch wakes its waiters in an order drawn from a thread-local generator.
    #[cfg(madsim)]
    type Watch = openraft_rt_sim::SimWatch;
    type Oneshot = openraft_rt_tokio::TokioOneshot;
    type Mutex<T: OptionalSend + 'static> = openraft_rt_tokio::TokioMutex<T>;

    #[cfg(not(madsim))]
    fn new(threads: usize) -> Self {
        Runtime { inner: Inner::new(threads) }
    }

    #[cfg(madsim)]
    fn new(_threads: usize) -> Self {
        Runtime {}
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        #[cfg(not(madsim))]
        {
            self.inner.block_on(future)
        }
        #[cfg(madsim)]
        {
            madsim::runtime::Runtime::new().block_on(future)
        }
    }

    #[cfg(madsim)]
    async fn spawn_blocking<F, T>(work: F) -> Result<T, io::Error>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        Ok(work())
    }
}

/// openraft's tests of a runtime, over the simulated one: for the simulator, which alone is built with it.
///
/// # Panics
///
/// Where one of them fails.
#[cfg(madsim)]
pub fn run_openrafts_suite() {
    openraft_rt::testing::Suite::<Runtime>::test_all();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runtime_passes_openrafts_suite() {
        openraft_rt::testing::Suite::<Runtime>::test_all();
    }

    #[test]
    fn the_clock_goes_forward_and_never_below_zero() {
        let a = Instant::now();
        let b = Instant::now();
        assert!(b >= a);
        assert_eq!(a - b, if a == b { Duration::ZERO } else { a - b });
        assert_eq!((a - Duration::from_secs(1 << 40)).as_nanos(), 0);
    }
}
