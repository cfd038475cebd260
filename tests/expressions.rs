//! Regular expressions that end with their scope.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use timebox::regex::{Regex, linear};
use timebox::{TimeoutError, timeout};

const SHORT: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_secs(3600);
const HANG: Duration = Duration::from_secs(40);

fn evil() -> (Regex, String) {
    (Regex::new("^(a+)+$").unwrap(), "a".repeat(60) + "!")
}

mod backtracking {
    use super::*;

    #[test]
    fn an_evil_pattern_is_stopped_and_usable_at_once() {
        let (regex, text) = evil();
        for _ in 0..20 {
            let start = Instant::now();
            let error = timeout(SHORT, || regex.is_match(&text)).unwrap_err();
            assert!(start.elapsed() >= SHORT && start.elapsed() < HANG);
            assert_eq!(error.limit(), Some(SHORT));
            assert!(regex.is_match("aaaa").unwrap());
            assert!(timeout(LONG, || regex.is_match("aaaa")).unwrap());
        }
    }

    #[test]
    fn a_scope_that_is_over_does_not_search() {
        let (regex, _) = evil();
        let (line, error) = (
            line!(),
            timeout(LONG, || {
                timebox::token().cancel_with("not needed");
                regex.find("aaaa")
            }),
        );
        let error = error.unwrap_err();
        assert_eq!(error.reason(), Some("not needed"));
        assert!(error.interrupted_at().line() >= line && error.interrupted_at().file() == file!());
    }

    #[test]
    fn a_cancellation_from_elsewhere_stops_it() {
        let (regex, text) = evil();
        let error = timeout(LONG, || {
            let token = timebox::token();
            let canceller = std::thread::spawn(move || token.cancel());
            let result = regex.captures(&text);
            canceller.join().unwrap();
            result
        });
        assert!(error.unwrap_err().is_cancelled());
    }

    #[test]
    fn finds_what_there_is_and_its_groups() {
        let date = Regex::new(r"(?<year>\d{4})-(?<month>\d\d)(-(\d\d))?").unwrap();
        let groups = date.captures("from 2026-11 on").unwrap().unwrap();
        assert_eq!(groups.len(), 5);
        assert_eq!(groups.name("month").map(|group| group.range()), Some(10..12));
        assert_eq!(groups.get(4), None);
        assert_eq!(groups.name("day"), None);
        assert_eq!(&groups[0], "2026-11");
        assert_eq!(date.find("none").unwrap(), None);
    }

    #[test]
    fn iterates_like_the_crate_regex() {
        for pattern in ["a*", r"\b", "", "a|ab", "(?=b)", "ä?", r"\w+", "$", r"(?m)^"] {
            let regex = Regex::new(pattern).unwrap();
            // No newline at the end: there `$` is Perl's, which takes it for the end.
            for text in ["", "abc aab", "baaäb ä", "äöü", "a\nb\nc"] {
                let found: Vec<_> = regex.find_iter(text).map(|found| found.unwrap().range()).collect();
                let Ok(plain) = regex_automata::meta::Regex::new(pattern) else { continue };
                let expected: Vec<_> = plain.find_iter(text).map(|found| found.range()).collect();
                assert_eq!(found, expected, "{pattern:?} in {text:?}");
            }
        }
    }

    #[test]
    fn an_iteration_ends_with_its_error() {
        let (regex, text) = evil();
        let error = timeout(SHORT, || {
            regex.find_iter(&text).map(|found| found.map(|_| 1)).sum::<Result<u32, TimeoutError>>()
        });
        assert!(error.is_err());
    }

    #[test]
    fn replaces_every_match() {
        let vowels = Regex::new("[aeiou]").unwrap();
        let replaced = vowels.replace_all("education", |found| found[0].to_uppercase()).unwrap();
        assert_eq!(replaced, "EdUcAtIOn");
        assert!(matches!(vowels.replace_all("xyz", |_| "").unwrap(), std::borrow::Cow::Borrowed("xyz")));
        assert_eq!(Regex::new("x*").unwrap().replace_all("äx", |_| "-").unwrap(), "-ä-");
    }

    #[test]
    fn look_around_and_back_references_are_known() {
        let twice = Regex::new(r"\b(\w+) \1\b").unwrap();
        assert_eq!(twice.find("it is is so").unwrap().unwrap().as_str(), "is is");
        assert!(Regex::new("(?<=x)y(?!z)").unwrap().is_match("xy").unwrap());
    }

    #[test]
    fn a_bad_pattern_is_a_typed_error_with_its_place() {
        let error = Regex::new("a(b").unwrap_err();
        assert_eq!(error.offset(), 3);
        assert!(error.to_string().contains("parenthesis"), "{error}");
        assert!(Regex::new(r"\C").is_err(), "half a character");
    }

    #[test]
    fn a_search_that_the_engine_gives_up_is_an_error_and_no_timeout() {
        let endless = Regex::new("(?1)(a?(?1))").unwrap();
        let error = endless.is_match("aaa").unwrap_err();
        assert!(error.is_cancelled() && !error.is_timeout());
        assert!(error.reason().is_some_and(|reason| reason.contains("PCRE2")), "{error}");
        assert!(std::error::Error::source(&error).is_some());
    }

    #[test]
    fn deep_backtracking_needs_no_deep_stack() {
        let regex = Regex::new("(a|b)*c").unwrap();
        let text = "ab".repeat(200_000);
        assert!(!timeout(LONG, || regex.is_match(&text)).unwrap());
    }

    #[test]
    fn one_expression_serves_many_threads() {
        let regex = Regex::new(r"(\d+)").unwrap();
        std::thread::scope(|threads| {
            for n in 0..8 {
                let regex = &regex;
                threads.spawn(move || {
                    let text = format!("number {n}");
                    for _ in 0..200 {
                        assert_eq!(regex.find(&text).unwrap().unwrap().as_str(), n.to_string());
                    }
                });
            }
        });
    }
}

mod linear_time {
    use super::*;

    /// Bounded, unbounded, empty, anchored, with word boundaries.
    const PATTERNS: [&str; 18] = [
        "ab",
        "a{2,9}b",
        "[a-cä]{1,20}",
        "a|ab|abc",
        "(a|b){0,3}$",
        r"\bab",
        r"(?-u:\b)a+",
        "",
        "a*",
        "a+b*c",
        ".*b",
        "(?s).*ä",
        "^a",
        "^(a|b)*c",
        "a.*?c",
        r"\w+\s",
        "(?m)^a.*$",
        "[^a]*a",
    ];

    /// Text of a few letters, some of them of two bytes, with long runs.
    fn text(seed: u64, length: usize) -> String {
        let mut x = seed | 1;
        let mut random = move |n: u64| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x % n
        };
        let mut text = String::new();
        while text.len() < length {
            let letter = ["a", "b", "c", "ä", " ", "\n"][usize::try_from(random(6)).unwrap()];
            let run = if random(50) == 0 { random(9000) } else { 1 + random(3) };
            text.extend((0..run).map(|_| letter));
        }
        text
    }

    #[test]
    fn finds_the_same_as_the_plain_search() {
        for pattern in PATTERNS {
            let regex = linear::Regex::new(pattern).unwrap();
            let plain = regex_automata::meta::Regex::new(pattern).unwrap();
            for seed in 1..12 {
                let text = text(seed * 7919, usize::try_from(seed).unwrap().pow(2) * 500);
                // All matches of a pattern such as `[^a]*a` take quadratic time.
                let most = 2000;
                let found: Vec<_> =
                    regex.find_iter(&text).take(most).map(|found| found.unwrap().range()).collect();
                let expected: Vec<_> = plain.find_iter(&text).take(most).map(|found| found.range()).collect();
                assert_eq!(found, expected, "{pattern:?}, seed {seed}");
            }
        }
    }

    /// Patterns of a few letters, in all ways of putting them together.
    fn any_pattern() -> impl Strategy<Value = String> {
        let leaf = prop::sample::select(vec![
            "a",
            "b",
            "ä",
            ".",
            "[ab]",
            "[^a]",
            r"\w",
            r"\b",
            r"(?-u:\b)",
            "^",
            "$",
            "(?m:^)",
            "(?m:$)",
            "",
        ]);
        leaf.prop_map(String::from).prop_recursive(4, 12, 3, |inner| {
            let repeated = prop::sample::select(vec!["*", "+", "?", "*?", "+?", "{2}", "{1,3}", "{2,}"]);
            prop_oneof![
                prop::collection::vec(inner.clone(), 1..4).prop_map(|parts| parts.concat()),
                prop::collection::vec(inner.clone(), 2..4)
                    .prop_map(|parts| format!("(?:{})", parts.join("|"))),
                (inner, repeated).prop_map(|(part, times)| format!("(?:{part}){times}")),
            ]
        })
    }

    /// Text of the same letters, with runs that are longer than what is searched at a time.
    fn any_text() -> impl Strategy<Value = String> {
        let run = (
            prop::sample::select(vec!["a", "b", "ä", "ab", " ", "\n"]),
            prop_oneof![9 => 1..4_usize, 1 => 1..9000_usize],
        );
        prop::collection::vec(run, 0..40)
            .prop_map(|runs| runs.into_iter().map(|(letter, times)| letter.repeat(times)).collect())
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

        #[test]
        fn finds_the_same_as_the_plain_search_whatever_the_pattern(pattern in any_pattern(), text in any_text()) {
            let regex = linear::Regex::new(&pattern).unwrap();
            let plain = regex_automata::meta::Regex::new(&pattern).unwrap();
            // All matches may take quadratic time.
            let found: Vec<_> = regex.find_iter(&text).take(50).map(|found| found.unwrap().range()).collect();
            let expected: Vec<_> = plain.find_iter(&text).take(50).map(|found| found.range()).collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn groups_are_those_of_the_plain_search() {
        let regex = linear::Regex::new(r"(?<word>\w+) (\d+)?").unwrap();
        let groups = regex.captures("abc 12 d ").unwrap().unwrap();
        assert_eq!((&groups[0], &groups[2]), ("abc 12", "12"));
        assert_eq!(groups.name("word").unwrap().as_str(), "abc");
        assert_eq!(
            regex.replace_all("a b ", |groups| groups.name("word").unwrap().as_str().repeat(2)).unwrap(),
            "aabb"
        );
    }

    #[test]
    fn a_search_of_endless_text_is_stopped() {
        // Bounded, and unbounded.
        for pattern in ["x{3,9}y", "x[^y]*y"] {
            let regex = linear::Regex::new(pattern).unwrap();
            let text = "x".repeat(1 << 20);
            let error = timeout(SHORT, || -> Result<(), TimeoutError> {
                loop {
                    assert!(!regex.is_match(&text)?);
                }
            });
            assert!(error.unwrap_err().is_timeout());
        }
    }

    #[test]
    fn one_search_is_stopped_in_the_middle() {
        for pattern in ["x{3,9}y", "x[^y]*y"] {
            let regex = linear::Regex::new(pattern).unwrap();
            let text = "x".repeat(1 << 20);
            let token = timebox::CancellationToken::new();
            // Looks counted by the harness: the search has many, not one.
            let scope = timebox::Timebox::new(LONG).cancel_on(&token);
            let result = scope.run(|_| {
                token.cancel();
                regex.is_match(&text)
            });
            assert!(result.is_err());
        }
    }

    #[test]
    fn a_bad_pattern_is_a_typed_error() {
        assert!(linear::Regex::new("a(b").unwrap_err().to_string().contains("unclosed group"));
        assert!(linear::Regex::new(r"(\pL{1,900}){1,900}").is_err());
    }
}

#[cfg(feature = "testing")]
mod points {
    use super::*;
    use timebox::testing::expire_at_checkpoint;

    #[test]
    fn a_search_is_an_interruption_point() {
        let regex = Regex::new("a").unwrap();
        assert!(expire_at_checkpoint(1, || regex.is_match("a")).is_err());
    }

    #[test]
    fn each_match_of_an_iteration_is_one() {
        let (backtracking, linear) = (Regex::new("a").unwrap(), linear::Regex::new("a").unwrap());
        let text = "a".repeat(100);
        let first_error = |mut matches: &mut dyn Iterator<Item = Result<(), TimeoutError>>| {
            expire_at_checkpoint(50, || (&mut matches).position(|found| found.is_err()))
        };
        let at = [
            first_error(&mut backtracking.find_iter(&text).map(|found| found.map(drop))),
            first_error(&mut backtracking.captures_iter(&text).map(|found| found.map(drop))),
            first_error(&mut linear.find_iter(&text).map(|found| found.map(drop))),
            first_error(&mut linear.captures_iter(&text).map(|found| found.map(drop))),
        ];
        for at in at {
            assert!(at.is_some_and(|at| (10..50).contains(&at)), "{at:?}");
        }
    }

    #[test]
    fn each_replacement_is_one() {
        let (backtracking, linear) = (Regex::new("a").unwrap(), linear::Regex::new("a").unwrap());
        let text = "a".repeat(100);
        let mut replaced = [0; 2];
        let [first, second] = &mut replaced;
        let error = expire_at_checkpoint(50, || {
            backtracking.replace_all(&text, |_| {
                *first += 1;
                ""
            })
        });
        assert!(error.is_err());
        let error = expire_at_checkpoint(50, || {
            linear.replace_all(&text, |_| {
                *second += 1;
                ""
            })
        });
        assert!(error.is_err());
        for replaced in replaced {
            assert!((10..50).contains(&replaced), "{replaced}");
        }
    }

    #[test]
    fn a_long_linear_search_has_one_for_each_chunk() {
        for pattern in ["x{3,9}y", "x[^y]*y"] {
            let regex = linear::Regex::new(pattern).unwrap();
            let text = "x".repeat(1 << 20);
            assert!(expire_at_checkpoint(50, || regex.is_match(&text)).is_err(), "{pattern}");
            assert!(expire_at_checkpoint(200, || regex.is_match(&text)).is_ok(), "{pattern}");
        }
    }
}
