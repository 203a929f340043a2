use proptest::prelude::*;
use serde_json::json;

use super::*;

fn outcomes(parser: &mut Parser, mut input: &[u8]) -> Vec<Result<Value, String>> {
    let mut out = Vec::new();
    while let Some(outcome) = parser.next(&mut input) {
        out.push(outcome.map_err(|error| error.to_string()));
    }
    assert!(input.is_empty(), "the parser left input behind");
    out
}

fn parse(input: &[u8]) -> Vec<Result<Value, String>> {
    outcomes(&mut Parser::default(), input)
}

/// The one error `input` gives.
fn error(input: &[u8]) -> String {
    let all = parse(input);
    match all.as_slice() {
        [Err(text)] => text.clone(),
        other => panic!("one error expected: {other:?}"),
    }
}

#[test]
fn values_need_nothing_between_them() {
    assert_eq!(
        parse(b"{}[1]\r\n\t {\"a\":[{}]}\"s\"'t'5 true null\n"),
        [
            Ok(json!({})),
            Ok(json!([1])),
            Ok(json!({"a": [{}]})),
            Ok(json!("s")),
            Ok(json!("t")),
            Ok(json!(5)),
            Ok(json!(true)),
            Ok(json!(null)),
        ]
    );
}

#[test]
fn a_number_ends_with_the_byte_after_it() {
    let mut parser = Parser::default();
    assert_eq!(outcomes(&mut parser, b"12"), []);
    assert_eq!(outcomes(&mut parser, b"3"), []);
    assert_eq!(
        outcomes(&mut parser, b"[4]"),
        [Ok(json!(123)), Ok(json!([4]))]
    );
}

#[test]
fn single_quotes_and_escapes() {
    assert_eq!(
        parse(br#"['it\'s', "\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00\u0000", '"']"#),
        [Ok(json!([
            "it's",
            "\"\\/\u{8}\u{c}\n\r\t\u{e9}\u{1F600}\0",
            "\""
        ]))]
    );
    assert_eq!(
        parse("\"\u{e9}\u{1F600}\"".as_bytes()),
        [Ok(json!("\u{e9}\u{1F600}"))]
    );
}

#[test]
fn integers_are_exact_and_larger_ones_doubles() {
    assert_eq!(
        parse(b"[18446744073709551615,-9223372036854775808,-0,1e3,0.5,18446744073709551616]"),
        [Ok(json!([
            u64::MAX,
            i64::MIN,
            0,
            1e3,
            0.5,
            18_446_744_073_709_551_616.0
        ]))]
    );
    assert_eq!(error(b"1e999 "), "JSON parse error, number out of range");
}

#[test]
fn errors_are_qemus() {
    for (input, text) in [
        (&b"{\"a\" 1}"[..], "missing : in object pair"),
        (b"{\"a\":1 \"b\":2}", "expected separator in dict"),
        (b"[1 2]", "expected separator in list"),
        (b"{\"a\":}", "expecting value"),
        (b"{\"a\":1,}", "expecting value"),
        (b"[1,]", "expecting value"),
        (b"{]", "expecting value"),
        (b"[}", "expecting value"),
        (b"}", "expecting value"),
        (b",", "expecting value"),
        (b"{1:2}", "key is not a string in object"),
        (b"{\"a\":1,\"a\":2}", "duplicate key"),
        (b"nonsense ", "invalid keyword 'nonsense'"),
        (b"{\"a\":tru}", "invalid keyword 'tru'"),
        (b"\"\\q\"", "invalid escape sequence in string"),
        (b"\"\\ud800\"", "\\ud800 is not a valid Unicode character"),
        (b"\"\\ud800x\"", "\\ud800 is not a valid Unicode character"),
        (
            b"\"\\ud800\\n\"",
            "\\ud800 is not a valid Unicode character",
        ),
        (
            b"\"\\ud800\\u0041\"",
            "\\ud800 is not a valid Unicode character",
        ),
        (b"\"\\ude00\"", "\\ude00 is not a valid Unicode character"),
        (b"\"\\u12\"", "\\u12\" is not a valid Unicode character"),
        (b"\"\\u\"", "\\u\" is not a valid Unicode character"),
        (b"\"\xc3(\"", "invalid UTF-8 sequence in string"),
        (b"\x1b", "stray '\u{1b}'"),
        (b"\xff", "stray '\u{fffd}'"),
        (b"01 ", "stray '01'"),
        (b"-x\n", "stray '-x'"),
        (b"1.x\n", "stray '1.x'"),
    ] {
        assert_eq!(
            error(input),
            format!("JSON parse error, {text}"),
            "{input:?}"
        );
    }
}

#[test]
fn one_error_then_the_next_balanced_value() {
    let next = Ok(json!({"next": 1}));
    for broken in [
        &b"{\"a\":1,\"a\":{\"b\":[1,2,{}]},\"c\":\"}\"}"[..],
        b"[1 2 3 [4] {\"x\":1} ]",
        b"{\"execute\":\"x\",\"id\":{\"a\":@}}",
        b"{\"a\": nonsense, \"b\": \"\\q\"}",
        b"{\"a\": \"\\q\", \"b\": \"{\\q\\ud800\"}",
    ] {
        let all = parse(&[broken, b"{\"next\":1}"].concat());
        assert_eq!(all.len(), 2, "{broken:?}: {all:?}");
        assert!(all.first().unwrap().is_err());
        assert_eq!(all.get(1), Some(&next));
    }
}

#[test]
fn rubbish_outside_values_is_skipped_to_something_structural() {
    assert_eq!(
        parse(b"@ rubbish \"quoted\" 12 {\"next\":1}"),
        [
            Err("JSON parse error, stray '@'".into()),
            Ok(json!({"next": 1}))
        ]
    );
    assert_eq!(
        parse(b"@@@\n{\"next\":1}"),
        [
            Err("JSON parse error, stray '@'".into()),
            Ok(json!({"next": 1}))
        ]
    );
}

#[test]
fn a_control_character_forgets_what_was_half_sent() {
    for reset in [0x00, 0x01, 0x1b, 0xfe, 0xff] {
        for half in [
            &b"{\"a\":[[["[..],
            b"\"text",
            b"\"\\u00",
            b"{\"a\":1 2 [",
            b"tru",
            b"-",
        ] {
            let all = parse(&[half, &[reset], b"{\"next\":1}"].concat());
            assert_eq!(
                all.last(),
                Some(&Ok(json!({"next": 1}))),
                "{half:?}: {all:?}"
            );
            assert!(all.len() <= 3);
            assert!(all.iter().rev().skip(1).all(Result::is_err));
        }
    }
}

#[test]
fn the_depth_limit_is_exact() {
    let nested = |depth: usize| [b"[".repeat(depth), b"]".repeat(depth)].concat();
    assert!(matches!(parse(&nested(1024)).as_slice(), [Ok(_)]));
    let all = parse(&[nested(1025), nested(5000), b"{}".to_vec()].concat());
    let refused = || Err("JSON nesting depth limit exceeded".to_owned());
    assert_eq!(all, [refused(), refused(), Ok(json!({}))]);
}

#[test]
fn the_size_limit_gives_one_error_and_keeps_nothing() {
    let limits = Limits {
        message_bytes: 100,
        ..Limits::default()
    };
    let long = b"x".repeat(1000);
    let refused = || Err("JSON token size limit exceeded".to_owned());
    for message in [
        [b"\"", &long[..], b"\""].concat(),
        [b"{\"a\":\"", &long[..], b"\",\"b\":[\"", &long[..], b"\"]}"].concat(),
        [&long[..], b" "].concat(),
        [b"[", &b"9".repeat(1000)[..], b"]"].concat(),
    ] {
        let mut parser = Parser::new(limits);
        let all = outcomes(&mut parser, &[&message[..], b"{\"next\":1}"].concat());
        assert_eq!(all, [refused(), Ok(json!({"next": 1}))], "{message:?}");
    }
    // White space between tokens is free, and a message may be as long as the limit.
    let mut parser = Parser::new(limits);
    let fits = [&b" ".repeat(1000)[..], b"\"", &b"y".repeat(98), b"\""].concat();
    assert!(matches!(outcomes(&mut parser, &fits).as_slice(), [Ok(_)]));
}

#[test]
fn the_token_limit() {
    let limits = Limits {
        tokens: 5,
        ..Limits::default()
    };
    let mut parser = Parser::new(limits);
    assert_eq!(
        outcomes(&mut parser, b"[1,2][1,2,3,4,5,6,7]{}"),
        [
            Ok(json!([1, 2])),
            Err("JSON token count limit exceeded".into()),
            Ok(json!({})),
        ]
    );
}

/// Bytes that make interesting streams: structure, quotes, escapes, digits, rubbish.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let pieces: Vec<&'static [u8]> = vec![
        b"{",
        b"}",
        b"[",
        b"]",
        b":",
        b",",
        b"\"",
        b"'",
        b"\\",
        b"\\u",
        b"d83d",
        b"de00",
        b"0",
        b"17",
        b"-",
        b".",
        b"e",
        b"true",
        b"null",
        b"\"a\"",
        b"\"a\":",
        b" ",
        b"\n",
        b"@",
        b"\x01",
        b"\xff",
        b"\xc3",
        b"\xa9",
        b"{\"execute\":\"stop\"}",
    ];
    prop::collection::vec(prop::sample::select(pieces), 0..40).prop_map(|list| list.concat())
}

/// Any JSON value without doubles.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn cutting_the_stream_changes_nothing(
        stream in stream(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
    ) {
        let limits = Limits { message_bytes: 60, tokens: 12, depth: 6 };
        let whole = outcomes(&mut Parser::new(limits), &stream);
        let mut single = Parser::new(limits);
        let bytewise: Vec<_> =
            stream.iter().flat_map(|byte| outcomes(&mut single, &[*byte])).collect();
        prop_assert_eq!(&whole, &bytewise);
        let mut at: Vec<_> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        at.extend([0, stream.len()]);
        at.sort_unstable();
        let mut parser = Parser::new(limits);
        let cut: Vec<_> =
            at.windows(2).flat_map(|w| outcomes(&mut parser, &stream[w[0]..w[1]])).collect();
        prop_assert_eq!(&whole, &cut);
    }

    #[test]
    fn any_bytes_and_then_a_reset_leave_the_parser_usable(
        stream in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut parser = Parser::default();
        outcomes(&mut parser, &stream);
        outcomes(&mut parser, b"\xff");
        prop_assert_eq!(outcomes(&mut parser, b"{\"a\":1}"), [Ok(json!({"a": 1}))]);
    }

    #[test]
    fn what_is_written_reads_back(value in value()) {
        let mut line = super::super::to_json(&value).unwrap();
        prop_assert!(line.iter().all(|byte| (0x20..0x7F).contains(byte)));
        line.push(b'\n');
        prop_assert_eq!(parse(&line), [Ok(value)]);
    }
}
