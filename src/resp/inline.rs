//! Inline requests: a line of words, as one types it into telnet. The quoting rules are those of redis-cli and
//! redis.conf, so [`split_args`] serves wherever such a line has to be cut into words.

/// Blanks between words, as C's `isspace`.
fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r')
}

/// What ends an unquoted word. Not the same set as [`is_blank`]: vertical tab and form feed inside a word belong to it.
fn ends_word(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// Finds the words of a line that has no quotes, as ranges of it. `None`: there are quotes, use [`split_args`].
pub(super) fn plain_words(line: &[u8], mut word: impl FnMut(usize, usize)) -> Option<()> {
    if memchr::memchr2(b'"', b'\'', line).is_some() {
        return None;
    }
    let mut at = 0;
    loop {
        while at < line.len() && is_blank(line[at]) {
            at += 1;
        }
        if at == line.len() {
            return Some(());
        }
        let start = at;
        while at < line.len() && !ends_word(line[at]) {
            at += 1;
        }
        word(start, at);
    }
}

/// Cuts a line into words. Double quotes know `\n \r \t \b \a \xHH` and `\` before any other byte; single quotes know
/// `\'` only; a closing quote must be followed by a blank or the end.
///
/// `None` when the quotes do not balance.
pub fn split_args(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut words = Vec::new();
    let mut at = 0;
    loop {
        while at < line.len() && is_blank(line[at]) {
            at += 1;
        }
        if at == line.len() {
            return Some(words);
        }
        let mut word = Vec::new();
        // A word may be made of several parts: ab"cd" is abcd.
        while at < line.len() && !ends_word(line[at]) {
            match line[at] {
                b'"' => {
                    at = double_quoted(line, at + 1, &mut word)?;
                    break;
                }
                b'\'' => {
                    at = single_quoted(line, at + 1, &mut word)?;
                    break;
                }
                byte => {
                    word.push(byte);
                    at += 1;
                }
            }
        }
        words.push(word);
    }
}

/// Reads from behind an opening quote; answers the position behind the closing one.
fn double_quoted(line: &[u8], mut at: usize, word: &mut Vec<u8>) -> Option<usize> {
    loop {
        match &line[at..] {
            [b'\\', b'x', high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                word.push(hex(*high) << 4 | hex(*low));
                at += 4;
            }
            [b'\\', escaped, ..] => {
                word.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 0x08,
                    b'a' => 0x07,
                    other => *other,
                });
                at += 2;
            }
            [b'"', rest @ ..] => return closed(rest, at),
            [byte, ..] => {
                word.push(*byte);
                at += 1;
            }
            [] => return None,
        }
    }
}

/// As [`double_quoted`], for single quotes.
fn single_quoted(line: &[u8], mut at: usize, word: &mut Vec<u8>) -> Option<usize> {
    loop {
        match &line[at..] {
            [b'\\', b'\'', ..] => {
                word.push(b'\'');
                at += 2;
            }
            [b'\'', rest @ ..] => return closed(rest, at),
            [byte, ..] => {
                word.push(*byte);
                at += 1;
            }
            [] => return None,
        }
    }
}

fn closed(rest: &[u8], quote: usize) -> Option<usize> {
    match rest.first() {
        Some(&byte) if !is_blank(byte) => None,
        _ => Some(quote + 1),
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit - b'A' + 10,
    }
}
