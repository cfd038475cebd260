use std::hash::{BuildHasher, RandomState};
use std::io;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use timebox::report::{Frame, Report, Sink};
use ureq::Agent;

/// Sends each report as an event to a server that understands Sentry's envelopes.
pub struct Sentry {
    agent: Agent,
    url: String,
    auth: String,
}

impl Sentry {
    /// `dsn` is what the server shows for a project: `https://KEY@HOST/PROJECT`. `None` if `dsn` has another form.
    /// `timeout` limits each exchange with the server. Without a timeout, a silent server would hold up all later
    /// events.
    pub fn new(dsn: &str, timeout: Duration) -> Option<Self> {
        let (scheme, rest) = dsn.split_once("://")?;
        let (key, rest) = rest.split_once('@')?;
        let (host, project) = rest.rsplit_once('/')?;
        Some(Self {
            agent: Agent::config_builder().timeout_global(Some(timeout)).build().into(),
            url: format!("{scheme}://{host}/api/{project}/envelope/"),
            auth: format!("Sentry sentry_version=7, sentry_client=timebox/0.1, sentry_key={key}"),
        })
    }
}

impl Sink for Sentry {
    fn write(&self, report: &Report) -> io::Result<()> {
        let id = event_id();
        // Three lines of JSON: the event's id, the kind of the item, and the event itself.
        let header = json!({ "event_id": id });
        let envelope = format!("{header}\n{{\"type\":\"event\"}}\n{}\n", event(&id, report));
        let request = self.agent.post(&self.url).header("X-Sentry-Auth", &self.auth);
        let request = request.header("Content-Type", "application/x-sentry-envelope");
        // `ureq` returns an error for a status of 400 or more.
        request.send(envelope).map(drop).map_err(io::Error::other)
    }
}

/// 32 random hexadecimal digits.
fn event_id() -> String {
    let random = || RandomState::new().hash_one(std::process::id());
    format!("{:016x}{:016x}", random(), random())
}

fn event(id: &str, report: &Report) -> Value {
    let frames = report.stacks.iter().chain(&report.awaits).next().map_or(&[][..], |stack| &stack.frames);
    let own = frames.iter().find(|frame| !frame.foreign);
    let place = own.map_or_else(|| report.scope.location().to_string(), |frame| frame.function.clone());
    let frame = |frame: &Frame| {
        json!({
            "function": frame.function,
            "filename": frame.file,
            "lineno": frame.line,
            "package": frame.module,
            "in_app": !frame.foreign,
        })
    };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // Sentry wants the outermost frame first.
    let stack: Vec<Value> = frames.iter().rev().map(frame).collect();
    let exception = json!({
        "type": report.kind,
        "value": report.headline(),
        "stacktrace": { "frames": stack },
    });
    json!({
        "event_id": id,
        "timestamp": now.as_secs_f64(),
        "platform": "native",
        "level": "warning",
        "logger": "timebox",
        "server_name": report.process.host,
        // Sentry makes one issue of all events with the same fingerprint.
        "fingerprint": ["timebox", report.kind, place],
        "tags": { "kind": report.kind, "scope": report.scope.label() },
        "exception": { "values": [exception] },
        "extra": { "report": report, "text": report.to_string() },
    })
}
