//! The answer to a call: in one frame, or in as many as it takes.
//!
//! A long one leaves part by part, in turn with whatever else there is to send, and only so many parts wait at a time: an
//! answer is never there twice because of its length. No part may overtake another.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::frame::{self, Kind};
use super::lanes::{Lane, Lanes, Outgoing};
use crate::api::Pieces;

/// What one frame of an answer holds at most.
pub(super) const PART_BYTES: usize = 256 << 10;
/// Parts of answers that wait to leave on one connection at most.
pub(super) const WAITING: usize = 16;

/// Moves the first bytes to `out`.
fn take(pieces: &mut VecDeque<Bytes>, mut bytes: usize, out: &mut BytesMut) {
    out.reserve(bytes);
    while bytes > 0
        && let Some(first) = pieces.front_mut()
    {
        let some = first.split_to(bytes.min(first.len()));
        out.extend_from_slice(&some);
        bytes -= some.len();
        if first.is_empty() {
            pieces.pop_front();
        }
    }
}

/// Sends an answer. The permit is the call's, and is given back when all of it is on its way.
pub(super) async fn send(
    answer: Pieces,
    request: u64,
    answers: &Lanes,
    room: &Arc<Semaphore>,
    permit: OwnedSemaphorePermit,
) {
    let mut left: usize = answer.iter().map(Bytes::len).sum();
    let mut pieces = VecDeque::from(answer);
    if left <= PART_BYTES {
        let frame = frame::encode(Kind::Reply, 0, request, |out| take(&mut pieces, left, out));
        return answers.answer_call(frame, permit);
    }
    while left > 0 {
        // It comes back when the part has left, or when the connection has ended.
        let Ok(place) = room.clone().acquire_owned().await else { return };
        let bytes = left.min(PART_BYTES);
        left -= bytes;
        let kind = if left == 0 { Kind::Reply } else { Kind::Part };
        let frame = frame::encode(kind, 0, request, |out| take(&mut pieces, bytes, out));
        // All in one lane, the short one at the end too.
        if !answers.push(Lane::Bulk, Outgoing { frame, taken: None, permit: Some(place) }) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn few_parts_of_a_long_answer_wait_at_a_time() {
        let (lanes, mut queues) = Lanes::new();
        let (calls, room) = (Arc::new(Semaphore::new(1)), Arc::new(Semaphore::new(WAITING)));
        let permit = calls.clone().try_acquire_owned().unwrap();
        let answer = vec![Bytes::from(vec![1; 5]), Bytes::from(vec![2; 100 * PART_BYTES])];
        let sending = tokio::spawn({
            let room = room.clone();
            async move { send(answer, 7, &lanes, &room, permit).await }
        });
        let (mut frames, mut bytes) = (0, 0);
        loop {
            while room.available_permits() > 0 && !sending.is_finished() {
                tokio::task::yield_now().await;
            }
            for _ in 0..4 {
                tokio::task::yield_now().await;
            }
            let mut waiting = Vec::new();
            while let Some(one) = queues.try_next() {
                waiting.push(one);
            }
            assert!(waiting.len() <= WAITING, "{} parts wait", waiting.len());
            for one in &waiting {
                (frames, bytes) = (frames + 1, bytes + one.frame.len() - 21);
                let kind = if bytes == 5 + 100 * PART_BYTES { Kind::Reply } else { Kind::Part };
                assert_eq!(one.frame[4], kind as u8, "frame {frames}");
            }
            if sending.is_finished() {
                break;
            }
            assert_eq!(calls.available_permits(), 0, "the call is not over");
        }
        assert_eq!((frames, bytes), (101, 5 + 100 * PART_BYTES));
        assert_eq!(calls.available_permits(), 1);
    }
}
