//! Glob patterns as KEYS, SCAN, HSCAN, CONFIG GET and PSUBSCRIBE understand them.
//!
//! The pattern comes from a client, so the matcher must never recurse and must never take more than
//! `pattern length × text length` steps: after a mismatch only the last `*` is tried again, since what
//! stands before it has already been matched in the earliest possible way.

/// Whether `text` as a whole matches `pattern`.
///
/// `*` is any run of bytes, `?` one byte, `[abc]`, `[^abc]` and `[a-z]` one byte of (or not of) a set,
/// and a backslash takes the next byte literally.
/// An empty text matches only an empty pattern (so not `*`): callers that let everything through
/// on a lone `*` use [`is_all`] first, as Redis does.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    run(pattern, text, |byte| byte)
}

/// The same with ASCII letters compared regardless of case (names of settings and commands).
pub fn matches_nocase(pattern: &[u8], text: &[u8]) -> bool {
    run(pattern, text, |byte| byte.to_ascii_lowercase())
}

/// A pattern that lets everything through, an empty text included.
pub fn is_all(pattern: &[u8]) -> bool {
    pattern == b"*"
}

fn run(pattern: &[u8], text: &[u8], fold: fn(u8) -> u8) -> bool {
    let (mut at, mut seen) = (0, 0);
    // Where to go on after a mismatch: behind the last star, and the next byte that star may swallow.
    let mut star: Option<(usize, usize)> = None;
    loop {
        if step_through(pattern, text, &mut at, &mut seen, &mut star, fold) {
            return true;
        }
        match star {
            Some((behind, from)) if from + 1 < text.len() => {
                star = Some((behind, from + 1));
                (at, seen) = (behind, from + 1);
            }
            _ => return false,
        }
    }
}

/// Matches on from (`at`, `seen`) until the end or the first mismatch; true if all of both is used up.
fn step_through(
    pattern: &[u8],
    text: &[u8],
    at: &mut usize,
    seen: &mut usize,
    star: &mut Option<(usize, usize)>,
    fold: fn(u8) -> u8,
) -> bool {
    while *at < pattern.len() && *seen < text.len() {
        match pattern[*at] {
            b'*' => {
                *at = skip_stars(pattern, *at);
                if *at == pattern.len() {
                    return true;
                }
                *star = Some((*at, *seen));
                continue;
            }
            b'?' => *at += 1,
            b'[' => {
                let (hit, next) = class(pattern, *at + 1, text[*seen], fold);
                if !hit {
                    return false;
                }
                *at = next;
            }
            byte => {
                let mut literal = byte;
                if byte == b'\\' && *at + 1 < pattern.len() {
                    *at += 1;
                    literal = pattern[*at];
                }
                if fold(literal) != fold(text[*seen]) {
                    return false;
                }
                *at += 1;
            }
        }
        *seen += 1;
        if *seen == text.len() {
            *at = skip_stars(pattern, *at);
        }
    }
    *at == pattern.len() && *seen == text.len()
}

fn skip_stars(pattern: &[u8], mut at: usize) -> usize {
    while pattern.get(at) == Some(&b'*') {
        at += 1;
    }
    at
}

/// Reads the set that begins at `at` (behind its bracket): whether `byte` is in it, and where it ends.
/// A set without its closing bracket ends with the pattern.
fn class(pattern: &[u8], mut at: usize, byte: u8, fold: fn(u8) -> u8) -> (bool, usize) {
    let negated = pattern.get(at) == Some(&b'^');
    if negated {
        at += 1;
    }
    let mut hit = false;
    while at < pattern.len() {
        let left = pattern.len() - at;
        match pattern[at] {
            b'\\' if left >= 2 => {
                at += 1;
                // Redis compares an escaped byte exactly, whatever the mode.
                hit |= pattern[at] == byte;
            }
            b']' => return (hit != negated, at + 1),
            first if left >= 3 && pattern[at + 1] == b'-' => {
                hit |= in_range(first, pattern[at + 2], byte, fold);
                at += 2;
            }
            single => hit |= fold(single) == fold(byte),
        }
        at += 1;
    }
    (hit != negated, pattern.len())
}

/// Bytes are ordered as signed numbers, which is what C's `char` is where Redis mostly runs:
/// it only shows in a range with one end in ASCII and one beyond it.
fn in_range(one: u8, other: u8, byte: u8, fold: fn(u8) -> u8) -> bool {
    let signed = |byte: u8| byte.cast_signed();
    let (low, high) = if signed(one) <= signed(other) { (one, other) } else { (other, one) };
    (signed(fold(low))..=signed(fold(high))).contains(&signed(fold(byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn yes(pattern: &str, text: &str) {
        assert!(matches(pattern.as_bytes(), text.as_bytes()), "{pattern:?} should match {text:?}");
    }

    fn no(pattern: &str, text: &str) {
        assert!(!matches(pattern.as_bytes(), text.as_bytes()), "{pattern:?} should not match {text:?}");
    }

    #[test]
    fn stars_and_marks() {
        yes("", "");
        no("", "a");
        no("*", "");
        yes("*", "a");
        yes("a*", "a");
        yes("a**", "a");
        yes("h*llo", "hllo");
        yes("h*llo", "heeeello");
        no("h*llo", "heeeell");
        yes("*a*b*c", "xxaxxbxxbcxxc");
        no("*a*b*c", "xxaxxcxxb");
        yes("h?llo", "hello");
        no("h?llo", "hllo");
        no("a?", "a");
        yes("*?", "a");
        yes("?*", "a");
    }

    #[test]
    fn sets() {
        yes("h[ae]llo", "hallo");
        no("h[ae]llo", "hillo");
        yes("h[^e]llo", "hallo");
        no("h[^e]llo", "hello");
        yes("h[a-b]llo", "hallo");
        yes("h[b-a]llo", "hallo");
        no("h[a-b]llo", "hcllo");
        yes("[a\\]b]", "]");
        yes("[\\a-c]", "-");
        no("[\\a-c]", "b");
    }

    #[test]
    fn broken_sets_end_with_the_pattern() {
        yes("[a", "a");
        no("[a", "b");
        yes("[^a", "b");
        yes("[^", "z");
        no("[", "[");
        no("[]", "]");
        yes("[^]", "z");
        // The bracket is the end of the range, so the set goes on.
        yes("[a-]", "^");
        no("[a-]", "-");
    }

    #[test]
    fn escapes() {
        yes("\\*", "*");
        no("\\*", "a");
        yes("a\\", "a\\");
        yes("\\\\", "\\");
        yes("\\a", "a");
    }

    #[test]
    fn case_is_ignored_only_on_request() {
        assert!(!matches(b"MaxMemory*", b"maxmemory-policy"));
        assert!(matches_nocase(b"MaxMemory*", b"maxmemory-policy"));
        assert!(matches_nocase(b"[A-C]x", b"bX"));
        assert!(!matches_nocase(b"[\\A]", b"a"));
    }

    #[test]
    fn hostile_patterns_cost_no_more_than_their_area() {
        let text = vec![b'a'; 20_000];
        let mut pattern = b"a*".repeat(2_000);
        pattern.push(b'b');
        assert!(!matches(&pattern, &text));
        pattern.pop();
        assert!(matches(&pattern, &text));
    }

    #[derive(Clone, Debug)]
    enum Token {
        Star,
        One(Box<[bool; 256]>),
    }

    /// Cuts a pattern of `*`, `?`, letters and well-formed sets into what each token accepts.
    fn tokens(pattern: &[u8]) -> Vec<Token> {
        let mut out = Vec::new();
        let mut at = 0;
        while at < pattern.len() {
            let mut accepts = Box::new([false; 256]);
            match pattern[at] {
                b'*' => {
                    out.push(Token::Star);
                    at += 1;
                    continue;
                }
                b'?' => accepts.fill(true),
                b'[' => {
                    let end = at + pattern[at..].iter().position(|b| *b == b']').unwrap();
                    for byte in &pattern[at + 1..end] {
                        accepts[usize::from(*byte)] = true;
                    }
                    at = end;
                }
                byte => accepts[usize::from(byte)] = true,
            }
            out.push(Token::One(accepts));
            at += 1;
        }
        out
    }

    /// The textbook definition by a table, which has no greed to get wrong.
    fn by_table(pattern: &[u8], text: &[u8]) -> bool {
        let mut row = vec![false; text.len() + 1];
        row[0] = true;
        for token in tokens(pattern) {
            let mut next = vec![false; text.len() + 1];
            match token {
                Token::Star => {
                    let mut any = false;
                    for (at, cell) in next.iter_mut().enumerate() {
                        any |= row[at];
                        *cell = any;
                    }
                }
                Token::One(accepts) => {
                    for at in 0..text.len() {
                        next[at + 1] = row[at] && accepts[usize::from(text[at])];
                    }
                }
            }
            row = next;
        }
        row[text.len()]
    }

    fn bytes(hex: &str) -> Vec<u8> {
        let hex = if hex == "-" { "" } else { hex };
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    #[test]
    fn agrees_with_redis() {
        let mut lines = include_str!("../tests/golden/glob.txt").lines().skip(1);
        let keys: Vec<_> = lines.next().unwrap().split(' ').skip(1).map(bytes).collect();
        let mut patterns = 0;
        for line in lines {
            let (pattern, hits) = line.split_once(' ').unwrap();
            let pattern = bytes(pattern);
            let expected: Vec<_> = hits.split(' ').filter(|hit| !hit.is_empty()).map(bytes).collect();
            let found: Vec<_> = keys.iter().filter(|key| matches(&pattern, key)).cloned().collect();
            assert_eq!(found, expected, "{}", String::from_utf8_lossy(&pattern));
            patterns += 1;
        }
        assert_eq!(patterns, 300);
    }

    proptest::proptest! {
        #[test]
        fn agrees_with_the_definition(pattern in "([abc?*]|\\[[abc]{1,2}\\]){0,12}", text in "[abc]{1,16}") {
            proptest::prop_assert_eq!(
                matches(pattern.as_bytes(), text.as_bytes()),
                by_table(pattern.as_bytes(), text.as_bytes())
            );
        }

        #[test]
        fn any_bytes_are_safe(pattern in proptest::collection::vec(0u8.., 0..40), text in proptest::collection::vec(0u8.., 0..40)) {
            matches(&pattern, &text);
            matches_nocase(&pattern, &text);
        }
    }
}
