use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits::DEFAULT;
const UNAUTHENTICATED: Limits = Limits { authenticated: false, ..Limits::DEFAULT };

/// What a parser makes of bytes that arrive in these pieces: the requests, and the error that ended them.
fn parse_pieces(pieces: &[&[u8]], limits: &Limits) -> (Vec<Vec<Bytes>>, Option<ProtocolError>) {
    let mut parser = Parser::new();
    let mut buf = BytesMut::new();
    let mut commands = Vec::new();
    for piece in pieces {
        buf.extend_from_slice(piece);
        loop {
            match parser.next(&mut buf, limits) {
                Ok(Some(command)) => commands.push(command.to_vec()),
                Ok(None) => break,
                Err(error) => return (commands, Some(error)),
            }
        }
    }
    (commands, None)
}

fn parse(input: &[u8]) -> (Vec<Vec<Bytes>>, Option<ProtocolError>) {
    parse_pieces(&[input], &LIMITS)
}

fn words(command: &[Bytes]) -> Vec<String> {
    command.iter().map(|arg| String::from_utf8_lossy(arg).into_owned()).collect()
}

fn error_of(input: &[u8], limits: &Limits) -> String {
    let (_, error) = parse_pieces(&[input], limits);
    error.map_or_else(
        || format!("no error for {:?}", input.escape_ascii().to_string()),
        |error| String::from_utf8_lossy(&error.reply()).into_owned(),
    )
}

#[test]
fn arrays_and_lines_mix_in_one_pipeline() {
    let (commands, error) = parse(b"*2\r\n$3\r\nGET\r\n$1\r\na\r\nPING\r\n*1\r\n$4\r\nPING\r\n  set  k 'v v' \n");
    assert_eq!(error, None);
    let commands: Vec<_> = commands.iter().map(|command| words(command)).collect();
    assert_eq!(commands, [vec!["GET", "a"], vec!["PING"], vec!["PING"], vec!["set", "k", "v v"]]);
}

#[test]
fn empty_requests_are_passed_over() {
    let (commands, error) = parse(b"\r\n\n*0\r\n*-1\r\n*-10\r\n   \r\nPING\r\n");
    assert_eq!(error, None);
    assert_eq!(commands.iter().map(|command| words(command)).collect::<Vec<_>>(), [["PING"]]);
}

#[test]
fn errors_read_as_those_of_redis() {
    let cases: &[(&[u8], &str)] = &[
        (b"*3000000000\r\n", "invalid multibulk length"),
        (b"*1048577\r\n", "invalid multibulk length"),
        (b"*\r\n", "invalid multibulk length"),
        (b"*x\r\n", "invalid multibulk length"),
        (b"*+1\r\n", "invalid multibulk length"),
        (b"*01\r\n", "invalid multibulk length"),
        (b"*1 \r\n", "invalid multibulk length"),
        (b"*99999999999999999999\r\n", "invalid multibulk length"),
        (b"*1\r\n$-1\r\n", "invalid bulk length"),
        (b"*1\r\n$2000000000\r\n", "invalid bulk length"),
        (b"*1\r\n$536870913\r\n", "invalid bulk length"),
        (b"*1\r\n$blabla\r\n", "invalid bulk length"),
        (b"*1\r\n$\r\n", "invalid bulk length"),
        (b"*3\r\n$3\r\nSET\r\n$1\r\nx\r\nfooz\r\n", "expected '$', got 'f'"),
        (b"*1\r\nfoo\r\n", "expected '$', got 'f'"),
        (b"*1\r\n\r\n", "expected '$', got ' '"),
        (b"*1\r\n\n\r\n", "expected '$', got ' '"),
        (b"set \"\"\"test-key\"\"\" test-value\r\n", "unbalanced quotes in request"),
        (b"get \"a\r\n", "unbalanced quotes in request"),
        (b"get 'a\r\n", "unbalanced quotes in request"),
        (b"get 'a'b\r\n", "unbalanced quotes in request"),
    ];
    for (input, text) in cases {
        assert_eq!(error_of(input, &LIMITS), format!("ERR Protocol error: {text}"), "{}", input.escape_ascii());
    }
    let long = vec![b'A'; MAX_LINE_BYTES + 1];
    assert_eq!(error_of(&long, &LIMITS), "ERR Protocol error: too big inline request");
    assert_eq!(error_of(&[b"*", &long[1..]].concat(), &LIMITS), "ERR Protocol error: too big mbulk count string");
    assert_eq!(error_of(&[b"*1\r\n$", &long[1..]].concat(), &LIMITS), "ERR Protocol error: too big bulk count string");
}

#[test]
fn one_who_has_not_authenticated_gets_small_limits() {
    assert_eq!(error_of(b"*11\r\n", &UNAUTHENTICATED), "ERR Protocol error: unauthenticated multibulk length");
    assert_eq!(
        error_of(b"*2\r\n$4\r\nAUTH\r\n$16385\r\n", &UNAUTHENTICATED),
        "ERR Protocol error: unauthenticated bulk length"
    );
    let password = vec![b'p'; 16384];
    let input = [b"*2\r\n$4\r\nAUTH\r\n$16384\r\n", &password[..], b"\r\n"].concat();
    let (commands, error) = parse_pieces(&[&input], &UNAUTHENTICATED);
    assert_eq!((commands.len(), error), (1, None));
    let ten = [&b"*10\r\n"[..], &b"$1\r\na\r\n".repeat(10)].concat();
    assert_eq!(parse_pieces(&[&ten], &UNAUTHENTICATED).0[0].len(), 10);
}

#[test]
fn limits_are_those_in_force_when_a_header_is_read() {
    let mut parser = Parser::new();
    let mut buf = BytesMut::from(&b"*2\r\n$3\r\nGET\r\n"[..]);
    assert_eq!(parser.next(&mut buf, &LIMITS), Ok(None));
    buf.extend_from_slice(b"$5\r\n");
    let small = Limits { max_bulk_bytes: 4, ..LIMITS };
    assert_eq!(parser.next(&mut buf, &small), Err(ProtocolError::InvalidBulkLength));
    assert_eq!(parser.next(&mut buf, &LIMITS), Err(ProtocolError::InvalidBulkLength), "an error stays");
}

#[test]
fn a_line_may_be_64_kilobytes_long() {
    let line = [&vec![b'A'; MAX_LINE_BYTES][..], b"\n"].concat();
    let (commands, error) = parse(&line);
    assert_eq!((commands[0][0].len(), error), (MAX_LINE_BYTES, None));
}

#[test]
fn arguments_share_the_bytes_of_their_request() {
    let mut buf = BytesMut::from(&b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\nrest"[..]);
    let range = buf.as_ptr() as usize..buf.as_ptr() as usize + buf.len();
    let command = Parser::new().next(&mut buf, &LIMITS).unwrap().unwrap();
    assert!(command.iter().all(|arg| range.contains(&(arg.as_ptr() as usize))));
    assert_eq!(command.wire_bytes(), 22);
    assert_eq!(&buf[..], b"rest");
}

#[test]
fn a_large_argument_may_arrive_in_small_pieces() {
    let size = 64 << 20;
    let piece = vec![b'x'; 16 << 10];
    let mut parser = Parser::new();
    let mut buf = BytesMut::new();
    buf.extend_from_slice(format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${size}\r\n").as_bytes());
    assert_eq!(parser.next(&mut buf, &LIMITS), Ok(None));
    assert_eq!(parser.missing(&buf), size + 2);
    for _ in 0..size / piece.len() {
        buf.extend_from_slice(&piece);
        assert_eq!(parser.next(&mut buf, &LIMITS), Ok(None));
    }
    buf.extend_from_slice(b"\r\n");
    let command = parser.next(&mut buf, &LIMITS).unwrap().unwrap();
    assert_eq!(command[2].len(), size);
    assert!(parser.is_idle() && buf.is_empty());
}

#[test]
fn a_line_that_arrives_byte_by_byte_is_searched_once() {
    let mut parser = Parser::new();
    let mut buf = BytesMut::new();
    for _ in 0..MAX_LINE_BYTES {
        buf.extend_from_slice(b"A");
        assert_eq!(parser.next(&mut buf, &LIMITS), Ok(None));
    }
    buf.extend_from_slice(b"A");
    assert_eq!(parser.next(&mut buf, &LIMITS), Err(ProtocolError::TooBigInline));
}

#[test]
fn a_million_arguments_are_one_request() {
    let input = [format!("*{}\r\n", Limits::MAX_ARGS).as_bytes(), &b"$1\r\na\r\n".repeat(Limits::MAX_ARGS)].concat();
    let (commands, error) = parse(&input);
    assert_eq!((commands[0].len(), error), (Limits::MAX_ARGS, None));
}

#[test]
fn quoting_follows_the_rules_of_redis_cli() {
    let split = |line: &str| split_args(line.as_bytes());
    let list = |words: &[&[u8]]| Some(words.iter().map(|word| word.to_vec()).collect::<Vec<_>>());
    assert_eq!(split(r#"a "b c" 'd e'"#), list(&[b"a", b"b c", b"d e"]));
    assert_eq!(split(r#""\x00\xfF\n\r\t\b\a\"\\\q""#), list(&[b"\x00\xff\n\r\t\x08\x07\"\\q"]));
    assert_eq!(split(r#""\xZZ""#), list(&[b"xZZ"]));
    assert_eq!(split(r"'it\'s' '\n'"), list(&[b"it's", b"\\n"]));
    assert_eq!(split(r#"foo"bar baz""#), list(&[b"foobar baz"]));
    assert_eq!(split(r#""" ''"#), list(&[b"", b""]));
    assert_eq!(split(" \x0b\x0c "), list(&[]));
    assert_eq!(split("a\x0bb"), list(&[b"a\x0bb"]));
    for bad in [r#""a"#, "'a", r#""a"b"#, "'a'b", r#"a"b"c"#, r#""\"#] {
        assert_eq!(split(bad), None, "{bad}");
    }
}

#[test]
fn numbers_are_read_as_strictly_as_redis_reads_them() {
    for (text, number) in [
        ("0", Some(0)),
        ("-1", Some(-1)),
        ("9223372036854775807", Some(i64::MAX)),
        ("-9223372036854775808", Some(i64::MIN)),
        ("9223372036854775808", None),
        ("-9223372036854775809", None),
        ("-0", None),
        ("00", None),
        ("+1", None),
        ("", None),
        ("-", None),
        (" 1", None),
        ("1a", None),
    ] {
        assert_eq!(parse_int(text.as_bytes()), number, "{text:?}");
    }
}

fn reply(bytes: &'static [u8]) -> Reply {
    let (reply, used) = parse_reply(&Bytes::from_static(bytes)).unwrap().unwrap();
    assert_eq!(used, bytes.len());
    reply
}

#[test]
fn every_kind_of_reply_is_read() {
    assert_eq!(reply(b"+OK\r\n"), Reply::Simple("OK".into()));
    assert_eq!(reply(b"-ERR x\r\n"), Reply::Error("ERR x".into()));
    assert_eq!(reply(b":-5\r\n"), Reply::Int(-5));
    assert_eq!(reply(b"$2\r\n\r\n\r\n"), Reply::Bulk("\r\n".into()));
    assert_eq!(reply(b"$-1\r\n"), Reply::Null);
    assert_eq!(reply(b"*-1\r\n"), Reply::Null);
    assert_eq!(reply(b"_\r\n"), Reply::Null);
    assert_eq!(reply(b"#t\r\n"), Reply::Bool(true));
    assert_eq!(reply(b",-inf\r\n"), Reply::Double(f64::NEG_INFINITY));
    assert_eq!(reply(b"(123\r\n"), Reply::BigNumber("123".into()));
    assert_eq!(reply(b"!5\r\nERR y\r\n"), Reply::Error("ERR y".into()));
    assert_eq!(reply(b"=6\r\ntxt:hi\r\n"), Reply::Verbatim("hi".into()));
    assert_eq!(reply(b"*0\r\n"), Reply::Array(vec![]));
    assert_eq!(reply(b"~1\r\n*1\r\n:1\r\n"), Reply::Set(vec![Reply::Array(vec![Reply::Int(1)])]));
    assert_eq!(reply(b"%1\r\n+k\r\n*0\r\n"), Reply::Map(vec![(Reply::Simple("k".into()), Reply::Array(vec![]))]));
    assert_eq!(reply(b">1\r\n+x\r\n"), Reply::Push(vec![Reply::Simple("x".into())]));
    let with_attributes = b"*2\r\n|1\r\n+ttl\r\n:3\r\n:1\r\n|0\r\n:2\r\n";
    assert_eq!(reply(with_attributes), Reply::Array(vec![Reply::Int(1), Reply::Int(2)]));
}

#[test]
fn a_run_of_replies_is_cut_at_the_right_places() {
    let replies: [&[u8]; 5] =
        [b"+OK\r\n", b"*2\r\n$1\r\na\r\n%1\r\n:1\r\n_\r\n", b"$-1\r\n", b"|1\r\n+a\r\n+b\r\n:1\r\n", b"*0\r\n"];
    let run = replies.concat();
    let mut rest = &run[..];
    for expected in replies {
        let length = skip_reply(rest).unwrap();
        assert_eq!(&rest[..length], expected);
        rest = &rest[length..];
    }
    assert_eq!(skip_reply(rest), None);
}

#[test]
fn replies_nested_deep_do_not_exhaust_the_stack() {
    let deep = [b"*1\r\n".repeat(1_000_000), b":1\r\n".to_vec()].concat();
    assert_eq!(skip_reply(&deep), Some(deep.len()));
    assert_eq!(parse_reply(&Bytes::from(deep)), Err(BadReply::Depth));
}

#[test]
fn what_is_not_a_reply_is_told() {
    let mut scanner = ReplyScanner::default();
    assert_eq!(scanner.next(b"GET / HTTP"), Err(BadReply::Kind(b'G')));
    assert_eq!(ReplyScanner::default().next(b"$3\r\nabcde"), Err(BadReply::BulkEnd));
    assert_eq!(ReplyScanner::default().next(b"$-2\r\n"), Err(BadReply::Number));
    assert_eq!(ReplyScanner::default().next(b"*99999999999999\r\n"), Err(BadReply::Number));
}

/// Bytes that look like a request often enough to get far into the parser.
fn hostile_bytes() -> impl Strategy<Value = Vec<u8>> {
    let token = prop_oneof![
        4 => prop::sample::select(vec![
            &b"*1\r\n"[..], b"*2\r\n", b"*0\r\n", b"*-1\r\n", b"*", b"$", b"$3\r\n", b"$0\r\n", b"$1\r\n", b"\r\n", b"\r",
            b"\n", b"GET", b"a", b"\r\n\r\n", b"\"", b"'", b" ", b"\\", b"\\x4", b"PING\r\n", b"$3\r\nGET\r\n",
            b":1\r\n", b"+OK\r\n", b"%1\r\n", b"|1\r\n", b"_\r\n", b"!2\r\nab\r\n",
        ]).prop_map(<[u8]>::to_vec),
        1 => prop::collection::vec(any::<u8>(), 0..8),
    ];
    prop::collection::vec(token, 0..24).prop_map(|tokens| tokens.concat())
}

fn cut<'a>(input: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(input.len() + 1)).collect();
    places.push(0);
    places.push(input.len());
    places.sort_unstable();
    places.windows(2).map(|pair| &input[pair[0]..pair[1]]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_bytes_in_any_pieces_give_the_same_requests(
        input in hostile_bytes(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        authenticated: bool,
    ) {
        let limits = Limits { authenticated, ..LIMITS };
        let whole = parse_pieces(&[&input], &limits);
        prop_assert_eq!(parse_pieces(&cut(&input, &cuts), &limits), whole.clone());
        let single: Vec<&[u8]> = input.chunks(1).collect();
        prop_assert_eq!(parse_pieces(&single, &limits), whole);
    }

    #[test]
    fn what_is_encoded_is_read_back(
        commands in prop::collection::vec(prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..6), 0..8),
    ) {
        let mut buf = BytesMut::new();
        for command in &commands {
            encode_command(command, &mut buf);
        }
        let (read, error) = parse(&buf);
        prop_assert_eq!(error, None);
        prop_assert_eq!(read, commands.iter().map(|command| command.iter().cloned().map(Bytes::from).collect()).collect::<Vec<Vec<_>>>());
    }

    #[test]
    fn any_bytes_as_a_reply_in_any_pieces_end_at_the_same_place(
        input in hostile_bytes(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let whole = ReplyScanner::default().next(&input);
        let mut scanner = ReplyScanner::default();
        let mut length = 0;
        let mut result = Ok(None);
        for piece in cut(&input, &cuts) {
            length += piece.len();
            result = scanner.next(&input[..length]);
            if result != Ok(None) {
                break;
            }
        }
        prop_assert_eq!(&result, &whole);
        let parsed = parse_reply(&Bytes::from(input));
        if let Ok(Some((_, used))) = parsed {
            prop_assert_eq!(Ok(Some(used)), whole);
        }
    }

    #[test]
    fn words_survive_quoting(words in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..12), 0..6)) {
        let line: Vec<u8> = words.iter().flat_map(|word| {
            let hex: String = word.iter().map(|byte| format!("\\x{byte:02x}")).collect();
            format!("\"{hex}\" ").into_bytes()
        }).collect();
        prop_assert_eq!(split_args(&line), Some(words));
    }
}
