//! Exactly one reply per command, to the client that sent it, in the order in which commands were sent (Raft paper,
//! section 8: a command is executed once, and its client is answered).
//!
//! Clients look at it themselves, as they read: a reply must be of a kind that the command can have; the echoes that
//! stand between the commands of a pipeline must come back between their replies; and when the last reply was read,
//! nothing more may have come. Whether the text in a reply is the right one is for the other oracles to say.

use quorate::resp::Reply;

use crate::story::Story;

pub const NAME: &str = "one reply per command, in order";

/// No correct server answers that to this.
pub fn odd(story: &Story, client: usize, reply: &Reply, to: &str, asked: u64) {
    story.broken_by(NAME, format!("client {client} got {reply:?} in answer to {to}"), vec![(client, asked)]);
}

/// The echo behind a command of a pipeline.
pub fn echo(story: &Story, client: usize, reply: &Reply, sent: &str, asked: u64) {
    if !matches!(reply, Reply::Bulk(text) if &text[..] == sent.as_bytes()) {
        odd(story, client, reply, &format!("ECHO {sent}"), asked);
    }
}

/// All that was asked is answered; these bytes were sent all the same.
pub fn surplus(story: &Story, client: usize, bytes: &[u8], asked: u64) {
    if !bytes.is_empty() {
        let text = format!("client {client} got more than it had asked for: {:?}", String::from_utf8_lossy(bytes));
        story.broken_by(NAME, text, vec![(client, asked)]);
    }
}
