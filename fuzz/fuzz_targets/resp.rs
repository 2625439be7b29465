//! Any bytes, in any pieces, as requests and as replies: nothing panics, and where the pieces were cut is not seen.

#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use quorate::resp::{Limits, Parser, ProtocolError, ReplyScanner, encode_command, parse_reply, skip_reply};

fn requests<'a>(pieces: impl Iterator<Item = &'a [u8]>, limits: &Limits) -> (Vec<Vec<Bytes>>, Option<ProtocolError>) {
    let mut parser = Parser::new();
    let mut buf = BytesMut::new();
    let mut requests = Vec::new();
    for piece in pieces {
        buf.extend_from_slice(piece);
        loop {
            match parser.next(&mut buf, limits) {
                Ok(Some(command)) => requests.push(command.to_vec()),
                Ok(None) => break,
                Err(error) => return (requests, Some(error)),
            }
        }
    }
    (requests, None)
}

fuzz_target!(|input: (u8, bool, &[u8])| {
    let (step, authenticated, bytes) = input;
    let limits = Limits { authenticated, ..Limits::DEFAULT };
    let whole = requests(std::iter::once(bytes), &limits);
    assert_eq!(requests(bytes.chunks(usize::from(step) + 1), &limits), whole);

    // What was understood can be written, and is understood the same.
    let mut written = BytesMut::new();
    for request in &whole.0 {
        encode_command(request, &mut written);
    }
    assert_eq!(requests(std::iter::once(&written[..]), &Limits::DEFAULT), (whole.0, None));

    let end = ReplyScanner::default().next(bytes);
    assert_eq!(skip_reply(bytes), end.clone().ok().flatten());
    let mut scanner = ReplyScanner::default();
    let mut piecewise = Ok(None);
    for length in (1..=bytes.len()).step_by(usize::from(step) + 1).chain([bytes.len()]) {
        piecewise = scanner.next(&bytes[..length]);
        if piecewise != Ok(None) {
            break;
        }
    }
    assert_eq!(piecewise, end);
    if let Ok(Some((_, used))) = parse_reply(&Bytes::copy_from_slice(bytes)) {
        assert_eq!(end, Ok(Some(used)));
    }
});
