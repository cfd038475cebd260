//! A headless Chromium, by its `DevTools` protocol.

use std::env;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use tungstenite::{Message, WebSocket};

/// Wide and one-sided: the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct Browser {
    child: Child,
    _profile: TempDir,
    socket: WebSocket<TcpStream>,
    session: Option<String>,
    last_id: u64,
    /// What the pages have complained about.
    pub(crate) complaints: Vec<String>,
    loads: u64,
}

impl Browser {
    /// `None`, after a line that says so, where there is no Chromium.
    pub(crate) fn start() -> Option<Self> {
        let profile = tempfile::tempdir().unwrap();
        let Some(mut child) = launch(&profile) else {
            let text = "the pages of the example web (there is no chromium)";
            assert!(env::var_os("TIMEBOX_REQUIRE_SERVERS").is_none(), "{text}");
            // Not with `eprintln!`: a test captures what that macro prints.
            writeln!(std::io::stderr(), "\nSKIPPED: {text}").expect("standard error is there");
            return None;
        };
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut addresses =
            lines.map_while(Result::ok).filter_map(|line| Some(line.split_once("ws://")?.1.to_owned()));
        let address = addresses.next().expect("chromium prints its address");
        // The rest of what it prints.
        std::thread::spawn(move || addresses.for_each(drop));

        let stream = TcpStream::connect(address.split('/').next().unwrap()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let (socket, _) = tungstenite::client(format!("ws://{address}"), stream).unwrap();
        let (complaints, session) = (Vec::new(), None);
        let mut browser =
            Self { child, _profile: profile, socket, session, last_id: 0, complaints, loads: 0 };
        let tab = browser.call("Target.createTarget", &json!({ "url": "about:blank" }));
        let attached =
            browser.call("Target.attachToTarget", &json!({ "targetId": tab["targetId"], "flatten": true }));
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), &json!({}));
        }
        Some(browser)
    }

    pub(crate) fn set_width(&mut self, width: u32) {
        let screen = json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.call("Emulation.setDeviceMetricsOverride", &screen);
    }

    pub(crate) fn set_dark(&mut self, dark: bool) {
        let scheme = if dark { "dark" } else { "light" };
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.call("Emulation.setEmulatedMedia", &media);
    }

    /// Opens a page, and waits until all of it is there.
    pub(crate) fn open(&mut self, url: &str) {
        self.load(|browser| {
            browser.call("Page.navigate", &json!({ "url": url }));
        });
    }

    /// Does what makes the browser load a page, and waits until all of it is there.
    pub(crate) fn load(&mut self, act: impl FnOnce(&mut Self)) {
        let loads = self.loads;
        act(self);
        let until = Instant::now() + PATIENCE;
        while self.loads == loads {
            assert!(Instant::now() < until, "the page has loaded");
            if let Some(message) = self.receive() {
                self.note(&message);
            }
        }
    }

    /// The value of an expression in JavaScript.
    pub(crate) fn evaluate(&mut self, expression: &str) -> Value {
        let result =
            self.call("Runtime.evaluate", &json!({ "expression": expression, "returnByValue": true }));
        assert_eq!(result["exceptionDetails"], Value::Null, "{expression}");
        result["result"]["value"].clone()
    }

    pub(crate) fn text(&mut self, expression: &str) -> String {
        self.evaluate(expression).as_str().unwrap_or_default().to_owned()
    }

    fn call(&mut self, method: &str, parameters: &Value) -> Value {
        self.last_id += 1;
        let mut request = json!({ "id": self.last_id, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            request["sessionId"] = json!(session);
        }
        self.socket.send(Message::text(request.to_string())).unwrap();
        let until = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < until, "{method} is answered");
            let Some(mut message) = self.receive() else { continue };
            if message["id"] == self.last_id {
                assert_eq!(message["error"], Value::Null, "{method}");
                return message["result"].take();
            }
            self.note(&message);
        }
    }

    /// `None` if nothing has come in a second.
    fn receive(&mut self) -> Option<Value> {
        match self.socket.read() {
            Ok(message) => serde_json::from_str(message.to_text().ok()?).ok(),
            Err(tungstenite::Error::Io(error))
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
            {
                None
            }
            Err(error) => panic!("chromium is there: {error}"),
        }
    }

    fn note(&mut self, event: &Value) {
        let details = &event["params"];
        match event["method"].as_str() {
            Some("Page.loadEventFired") => self.loads += 1,
            Some("Runtime.exceptionThrown") => self.complaints.push(details.to_string()),
            Some("Runtime.consoleAPICalled") if details["type"] == "error" => {
                self.complaints.push(details.to_string());
            }
            // That a page came with the status 503 is one of these, of the source `network`.
            Some("Log.entryAdded")
                if details["entry"]["level"] == "error" && details["entry"]["source"] != "network" =>
            {
                self.complaints.push(details.to_string());
            }
            _ => {}
        }
    }
}

fn launch(profile: &TempDir) -> Option<Child> {
    let folder = format!("--user-data-dir={}", profile.path().display());
    // No sandbox: it does not start as root. The pages are our own.
    let switches = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--remote-debugging-port=0",
    ];
    let start = |name: &str| {
        let mut command = Command::new(name);
        command.args(switches).args([&folder, "about:blank"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().ok()
    };
    ["chromium", "chromium-browser", "google-chrome"].into_iter().find_map(start)
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
