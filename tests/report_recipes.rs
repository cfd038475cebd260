//! The recipes for sinks, against servers on this machine.
#![cfg(not(miri))]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use lettre::SmtpTransport;
use mail::Mail;
use sentry::Sentry;
use serde_json::Value;
use timebox::report::{Report, Sink};

#[path = "../src/recipes/mail.rs"]
#[allow(unreachable_pub, reason = "a recipe is a user's code")]
mod mail;
#[path = "../src/recipes/sentry.rs"]
#[allow(unreachable_pub, reason = "a recipe is a user's code")]
mod sentry;

const LONG: Duration = Duration::from_secs(60);

/// A server: `serve` gets each connection, and what it returns is received.
fn server<T: Send + 'static>(serve: impl Fn(TcpStream) -> T + Send + 'static) -> (SocketAddr, Receiver<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, served) = channel();
    thread::spawn(move || {
        for connection in listener.incoming() {
            if sender.send(serve(connection.unwrap())).is_err() {
                return;
            }
        }
    });
    (address, served)
}

/// One session of SMTP. `to_data` is the answer to `DATA`. Returns the commands, and the mail.
fn smtp(stream: &TcpStream, to_data: &str) -> (Vec<String>, String) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let answer = |text: &str| {
        let mut stream = stream;
        stream.write_all(format!("{text}\r\n").as_bytes()).unwrap();
    };
    let (mut commands, mut mail) = (Vec::new(), String::new());
    answer("220 localhost ESMTP");
    while let Some(Ok(line)) = lines.next() {
        let command = line.split([' ', ':']).next().unwrap().to_uppercase();
        commands.push(line);
        match &*command {
            "EHLO" => answer("250-localhost\r\n250 8BITMIME"),
            "DATA" => {
                answer(to_data);
                if !to_data.starts_with('3') {
                    continue;
                }
                for line in lines.by_ref().map_while(Result::ok).take_while(|line| line != ".") {
                    mail.push_str(line.strip_prefix('.').unwrap_or(&line));
                    mail.push('\n');
                }
                answer("250 queued");
            }
            "QUIT" => {
                answer("221 bye");
                break;
            }
            _ => answer("250 ok"),
        }
    }
    (commands, mail)
}

/// The text of a mail's body in `quoted-printable`.
fn unquoted(body: &str) -> String {
    let body = body.replace("=\n", "");
    let mut bytes = Vec::new();
    let mut rest = body.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = match tail {
            [high, low, after @ ..] if *first == b'=' => {
                let digits = std::str::from_utf8(&[*high, *low]).unwrap().to_owned();
                bytes.push(u8::from_str_radix(&digits, 16).unwrap());
                after
            }
            _ => {
                bytes.push(*first);
                tail
            }
        };
    }
    String::from_utf8(bytes).unwrap()
}

fn mail_to(address: SocketAddr, timeout: Duration) -> Mail {
    let transport = SmtpTransport::builder_dangerous("127.0.0.1").port(address.port());
    Mail {
        transport: transport.timeout(Some(timeout)).build(),
        from: "shop@example.org".parse().unwrap(),
        to: "On Call <oncall@example.org>".parse().unwrap(),
    }
}

#[test]
fn a_mail_has_the_report() {
    let (address, served) = server(|stream| smtp(&stream, "354 go on"));
    let mail = mail_to(address, LONG);
    let report = Report::example();
    mail.write(&report).unwrap();
    drop(mail);
    let (commands, mail) = served.recv_timeout(LONG).unwrap();
    assert!(commands.iter().any(|line| line.starts_with("MAIL FROM:<shop@example.org>")), "{commands:?}");
    assert!(commands.contains(&"RCPT TO:<oncall@example.org>".to_owned()), "{commands:?}");
    let (head, body) = mail.split_once("\n\n").unwrap();
    let head = head.replace("\n ", " ");
    let subject = head.lines().find_map(|line| line.strip_prefix("Subject: ")).unwrap();
    assert_eq!(subject, report.headline());
    assert!(head.contains("Content-Transfer-Encoding: quoted-printable"), "{head}");
    assert_eq!(unquoted(body).trim_end(), report.to_string().trim_end());
}

#[test]
fn a_mail_that_is_refused_is_an_error() {
    let (address, _served) = server(|stream| smtp(&stream, "554 no such mail here"));
    let error = mail_to(address, LONG).write(&Report::example()).unwrap_err();
    assert!(error.to_string().contains("554"), "{error}");
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    mail_to(gone, LONG).write(&Report::example()).unwrap_err();
}

/// One request of HTTP. Returns its head and its body.
fn http(mut stream: TcpStream, status: &str) -> (String, String) {
    let mut lines = BufReader::new(stream.try_clone().unwrap());
    let (mut head, mut line) = (String::new(), String::new());
    while lines.read_line(&mut line).unwrap() > 2 {
        head.push_str(&line);
        line.clear();
    }
    let length =
        head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap()];
    lines.read_exact(&mut body).unwrap();
    let text = format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}");
    stream.write_all(text.as_bytes()).unwrap();
    (head, String::from_utf8(body).unwrap())
}

fn sentry_to(address: SocketAddr, timeout: Duration) -> Sentry {
    Sentry::new(&format!("http://secret@{address}/17"), timeout).unwrap()
}

#[test]
fn an_event_has_the_report() {
    let (address, served) = server(|stream| http(stream, "200 OK"));
    let report = Report::example();
    sentry_to(address, LONG).write(&report).unwrap();
    let (head, body) = served.recv_timeout(LONG).unwrap();
    assert!(head.starts_with("POST /api/17/envelope/ HTTP/1.1\r\n"), "{head}");
    assert!(head.to_lowercase().contains("x-sentry-auth: sentry sentry_version=7,"), "{head}");
    assert!(head.contains("sentry_key=secret"), "{head}");
    let parts: Vec<Value> = body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [header, item, event] = &*parts else { panic!("{body}") };
    assert_eq!(item["type"], "event");
    assert_eq!(header["event_id"], event["event_id"]);
    assert_eq!(event["event_id"].as_str().unwrap().len(), 32);
    let exception = &event["exception"]["values"][0];
    assert_eq!(exception["type"], "slow");
    assert_eq!(exception["value"], report.headline());
    let frames = exception["stacktrace"]["frames"].as_array().unwrap();
    assert_eq!(frames.len(), report.stacks[0].frames.len());
    assert_eq!(frames[0]["function"], "shop::handle");
    assert_eq!(frames[0]["in_app"], true);
    assert_eq!(event["fingerprint"][2], "shop::cache::reply");
    assert_eq!(event["extra"]["text"], report.to_string());
    assert_eq!(event["extra"]["report"], serde_json::to_value(&report).unwrap());
}

#[test]
fn an_event_that_is_refused_is_an_error() {
    let (address, _served) = server(|stream| http(stream, "429 Too Many Requests"));
    let error = sentry_to(address, LONG).write(&Report::example()).unwrap_err();
    assert!(error.to_string().contains("429"), "{error}");
    assert!(Sentry::new("https://example.org/17", LONG).is_none());
}

#[test]
fn a_silent_server_holds_a_sink_up_for_its_timeout_only() {
    let (address, _connected) = server(|stream| stream);
    let short = Duration::from_millis(200);
    mail_to(address, short).write(&Report::example()).unwrap_err();
    sentry_to(address, short).write(&Report::example()).unwrap_err();
}
