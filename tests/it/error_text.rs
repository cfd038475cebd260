//! How an error is shown, found behind others, and sent: for people, for clients, for logs.

use std::error::Error;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use timebox::{
    CancellationToken, Limit, Quota, Timebox, TimeoutError, checkpoint, require, sleep, timeout,
    timeout_value, with_timeout,
};

use crate::support::{LONG, SHORT, outlast};

/// An error of a scope in a scope, both labelled, with fields.
fn nested() -> TimeoutError {
    let query = || {
        let query = Timebox::new(SHORT).label("query").field("sql", "select 'a'\nfrom b").field("attempt", 2);
        query.run(|_| sleep(LONG))
    };
    Timebox::new(LONG).label("request").field("user", "Zoë").run(|_| query()).unwrap_err()
}

// ===== For people and clients =====

#[test]
fn the_line_has_the_label_the_limit_and_the_times_in_this_order() {
    let text = nested().to_string();
    let mut rest = text.as_str();
    for part in ["timed out", "`query`", &format!("limit {SHORT:?}"), "elapsed ", "overshoot "] {
        let found = rest.find(part).unwrap_or_else(|| panic!("no {part:?}, in this order, in: {text}"));
        rest = &rest[found + part.len()..];
    }
}

#[test]
fn the_line_names_no_source_file_and_no_field() {
    let token = CancellationToken::new();
    token.cancel_with("user left");
    for error in [
        nested(),
        timeout(SHORT, || sleep(LONG)).unwrap_err(),
        timeout_value(Duration::ZERO, || ()).unwrap_err(),
        Quota::new(Duration::ZERO).timeout(|| Ok::<_, TimeoutError>(())).unwrap_err(),
        timeout(LONG, || require(LONG * 2)).unwrap_err(),
        Timebox::new(Limit::NONE).cancel_on(&token).run_value(|_| ()).unwrap_err(),
        pollster::block_on(timebox::future::timeout_value(SHORT, std::future::pending::<()>())).unwrap_err(),
        token.checkpoint().unwrap_err(),
    ] {
        let text = error.to_string();
        assert!(!text.contains(".rs") && !text.contains(file!()) && !text.contains("select"), "{text}");
        assert!(!text.contains('\n'), "{text}");
    }
}

#[test]
fn a_cancellation_says_why() {
    let error = with_timeout(LONG, |scope| {
        scope.token().cancel_with("it isn't needed");
        scope.checkpoint()
    })
    .unwrap_err();
    assert!(error.to_string().starts_with("cancelled because \"it isn't needed\": limit 3600s, "), "{error}");
}

// ===== For who looks for the cause =====

#[test]
fn the_alternate_line_adds_the_places_and_the_fields() {
    let error = nested();
    let text = format!("{error:#}");
    assert!(text.starts_with(&error.to_string()), "{text}");
    for part in [
        format!("opened at {}", error.location()),
        format!("interrupted at {}", error.interrupted_at()),
        "sql = select 'a'\\nfrom b".to_owned(),
        "attempt = 2".to_owned(),
    ] {
        assert!(text.contains(&part), "no {part:?} in: {text}");
    }
    assert!(!text.contains('\n') && !text.contains("Zoë"), "one line, of the scope that is over: {text}");
}

#[test]
fn the_debug_text_has_a_line_for_each_scope_and_each_source() {
    let error = Timebox::new(LONG).label("request").field("user", "Zoë").run(|scope| {
        Timebox::new(LONG).label("query").run(|inner| {
            scope.token().cancel();
            inner.checkpoint()
        })
    });
    let error = error.unwrap_err();
    let text = format!("{error:?}");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], error.to_string());
    let query = lines.iter().position(|line| line.contains("in `query`")).expect(&text);
    let request = lines.iter().position(|line| line.contains("in `request`")).expect(&text);
    assert!(query < request, "innermost first: {text}");
    assert!(lines[request].contains("this one is over") && !lines[query].contains("over"), "{text}");
    assert!(lines[request + 1].contains("user = Zoë"), "{text}");
    for scope in error.chain() {
        assert!(text.contains(&format!("opened at {}", scope.location())), "{text}");
    }
    assert!(text.contains(&format!("interrupted at {}", error.interrupted_at())), "{text}");
}

#[derive(Debug, thiserror::Error)]
#[error("the connection")]
struct Nested(#[source] io::Error);

#[test]
fn the_debug_text_has_the_sources() {
    let (send, fired) = std::sync::mpsc::channel();
    let error = with_timeout(LONG, |scope| {
        let call = || {
            scope.token().cancel();
            fired.recv().expect("the hook lives as long as the call");
            Err::<(), _>(Nested(io::Error::other("server closed")))
        };
        scope.interruptible(move || send.send(()), call)
    });
    let text = format!("{:?}", error.unwrap_err());
    assert!(text.ends_with("\n    caused by: the connection\n    caused by: server closed"), "{text}");
}

#[test]
fn a_field_that_is_set_again_has_its_last_value_and_its_first_place() {
    let configured = Timebox::new(Duration::ZERO).field("attempt", 1).field("host", "a");
    let error = configured.clone().field("attempt", 2).run_value(|_| ()).unwrap_err();
    assert_eq!(error.fields().collect::<Vec<_>>(), [("attempt", "2"), ("host", "a")]);
    let error = configured.run_value(|_| ()).unwrap_err();
    assert_eq!(error.fields().next(), Some(("attempt", "1")), "clones keep theirs");
}

#[test]
fn a_field_whose_value_cannot_be_shown_does_no_harm() {
    struct Broken;
    impl std::fmt::Display for Broken {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            Err(std::fmt::Error)
        }
    }
    let error = Timebox::new(Duration::ZERO).field("broken", Broken).run_value(|_| ()).unwrap_err();
    assert_eq!(error.fields().next(), Some(("broken", "")));
}

#[test]
fn each_scope_of_the_chain_has_its_fields() {
    let fields: Vec<Vec<_>> =
        nested().chain().map(|scope| scope.fields().map(|(n, _)| n.to_owned()).collect()).collect();
    assert_eq!(fields, [vec!["sql", "attempt"], vec!["user"]]);
}

#[test]
fn a_handle_carries_the_fields() {
    let error = Timebox::new(SHORT).field("job", 7).run(|scope| scope.handle().wrap(|| sleep(LONG))());
    assert_eq!(error.unwrap_err().fields().next(), Some(("job", "7")));
}

// ===== Places =====

/// Whether it is in this file.
fn is_here(error: &TimeoutError) -> bool {
    error.interrupted_at().file() == file!()
}

#[test]
fn a_checkpoint_that_std_calls_is_placed_where_the_scope_was_opened() {
    let line = line!() + 1;
    with_timeout(SHORT, |scope| {
        outlast(scope);
        for error in [
            [LONG].into_iter().map(sleep).next().unwrap().unwrap_err(),
            std::iter::repeat_with(checkpoint).next().unwrap().unwrap_err(),
            [LONG].into_iter().try_for_each(require).unwrap_err(),
            [scope].map(timebox::Scope::checkpoint)[0].clone().unwrap_err(),
        ] {
            assert!(is_here(&error), "{error:#}");
            assert_eq!(error.interrupted_at().line(), line, "{error:#}");
        }
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
}

/// A stream that looks at its scope, and is told who calls.
struct Silent;

impl Read for Silent {
    #[track_caller]
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        sleep(LONG)?;
        Ok(0)
    }
}

#[test]
fn a_read_that_an_adapter_of_std_makes_is_not_placed_in_std() {
    for result in [
        timeout(SHORT, || Silent.read_exact(&mut [0; 4])),
        timeout(SHORT, || io::copy(&mut Silent, &mut io::sink()).map(|_| ())),
        timeout(SHORT, || io::BufReader::new(Silent).read_to_end(&mut Vec::new()).map(|_| ())),
    ] {
        let error = result.unwrap_err();
        assert!(is_here(TimeoutError::find(&error).unwrap()), "{error:#?}");
    }
}

// ===== Found behind other errors =====

#[derive(Debug, thiserror::Error)]
enum Service {
    #[error("the database")]
    Database(#[from] io::Error),
    #[error("{0}")]
    Timeout(#[from] TimeoutError),
    #[error("no such user")]
    NoUser,
}

#[track_caller]
fn assert_found(error: &(dyn Error + 'static), original: &TimeoutError) {
    let found = TimeoutError::find(error).unwrap_or_else(|| panic!("nothing found in {error:?}"));
    assert_eq!(found.scope(), original.scope());
}

#[test]
fn it_is_found_behind_whatever_it_went_through() {
    let original = nested();
    let io = || io::Error::from(original.clone());
    assert_found(&original, &original);
    assert_found(&io(), &original);
    assert_found(&io::Error::new(io::ErrorKind::InvalidData, io()), &original);
    assert_found(&io::Error::other(Nested(io::Error::other(io()))), &original);
    assert_found(&Service::Timeout(original.clone()), &original);
    assert_found(&Service::Database(io()), &original);
    assert_found(&Nested(io()), &original);
    assert_found(&Arc::new(original.clone()), &original);
    assert_found(&Box::new(io()), &original);
    assert_found(&Arc::new(io()), &original);
    assert_found(&(Arc::new(Service::Database(io())) as Arc<dyn Error + Send + Sync>), &original);
    let boxed: Box<dyn Error + Send + Sync> = Service::Database(io()).into();
    assert_found(&*boxed, &original);
    let boxed: Box<dyn Error> = io().into();
    assert_found(&*boxed, &original);
}

#[test]
fn it_is_found_behind_anyhow_and_its_context() {
    let original = nested();
    let error = anyhow::Error::from(original.clone());
    assert_found(&*error, &original);
    let error =
        anyhow::Error::from(io::Error::from(original.clone())).context("while loading").context("request");
    assert_found(&*error, &original);
    assert_found(error.as_ref(), &original);
}

#[cfg(all(unix, feature = "process"))]
#[test]
fn it_is_found_behind_the_error_of_a_command() {
    let error = timeout(Duration::ZERO, || timebox::process::status(&mut std::process::Command::new("true")));
    let error = error.unwrap_err();
    assert_found(&error, error.timeout().unwrap());
}

#[cfg(all(unix, feature = "isolate"))]
#[test]
fn it_is_found_behind_the_error_of_an_isolated_function() {
    let original = nested();
    assert_found(&timebox::isolate::Error::from(original.clone()), &original);
    assert_found(&timebox::isolate::Error::from(io::Error::from(original.clone())), &original);
}

#[test]
fn nothing_is_found_where_no_timeout_is() {
    assert!(TimeoutError::find(&io::Error::from(io::ErrorKind::TimedOut)).is_none());
    assert!(TimeoutError::find(&io::Error::other(Nested(io::Error::other("text")))).is_none());
    assert!(TimeoutError::find(&Service::NoUser).is_none());
    assert!(TimeoutError::find(&std::fmt::Error).is_none());
}

// ===== Sent =====

#[cfg(feature = "serde")]
#[test]
fn it_serialises_all_that_it_tells() {
    let error = nested();
    let json = serde_json::to_value(&error).unwrap();
    assert_eq!(json["message"], error.to_string());
    assert_eq!(json["cause"], "Deadline");
    assert_eq!(json["label"], "query");
    assert_eq!(json["reason"], serde_json::Value::Null);
    assert_eq!(json["location"], error.location().to_string());
    assert_eq!(json["interrupted_at"], error.interrupted_at().to_string());
    assert_eq!(serde_json::from_value::<Duration>(json["limit"].clone()).unwrap(), SHORT);
    assert_eq!(serde_json::from_value::<Duration>(json["elapsed"].clone()).unwrap(), error.elapsed());
    assert_eq!(serde_json::from_value::<Duration>(json["overshoot"].clone()).unwrap(), error.overshoot());
    assert_eq!((json["started"].as_bool(), json["settled"].as_bool()), (Some(true), Some(true)));
    assert_eq!(json["fields"]["sql"], "select 'a'\nfrom b");
    assert_eq!(json["chain"].as_array().unwrap().len(), 2);
    assert_eq!(json["chain"][0]["id"], json["scope"]);
    assert_eq!(json["chain"][1]["label"], "request");
    assert_eq!(json["chain"][1]["fields"]["user"], "Zoë");
    assert_eq!(json["source"], serde_json::Value::Null);
}
