use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use crate::server::Server;

const LIMIT: Duration = Duration::from_millis(500);
/// Between the limit and the last byte of the answer, at the 99th percentile.
const LATE: Duration = Duration::from_millis(50);
/// What a thread that nobody needs is kept for, by tokio and by timebox, and more.
const QUIET: Duration = Duration::from_secs(20);
/// The server is at rest before that, or it hangs.
const HANG: Duration = Duration::from_secs(180);

/// What a client may press.
const BUTTONS: [&str; 10] = [
    "/hang/regex",
    "/hang/query",
    "/hang/queries",
    "/hang/lock",
    "/hang/blocking",
    "/hang/upstream",
    "/hang/join",
    "/",
    "/slow",
    "/offenders",
];

/// Two clients for each processor press all buttons at random for `TIMEBOX_DEMO_SECONDS`, 30 unless set. One press in
/// twenty goes away in the middle.
///
/// `cargo test --release -p examples --features web --test web under_load -- --ignored --nocapture`
#[test]
#[ignore = "measures, so the machine must be idle"]
fn under_load_every_answer_is_in_time_and_nothing_is_left() {
    let seconds = std::env::var("TIMEBOX_DEMO_SECONDS").map_or(30, |seconds| seconds.parse().unwrap());
    let server = Server::start();
    // Once each, so that everything that is made once has been made.
    for path in BUTTONS.iter().chain(["/hang/join?__profile=demo"].iter()) {
        press(&server.address, path, None).unwrap();
    }
    press_for(&server, Duration::from_secs(30 + seconds / 10));
    let before = Usage::at_rest(&server);
    println!("before   {before:?}");

    let mut times = press_for(&server, Duration::from_secs(seconds));
    println!("at once  {:?}", Usage::of(&server));
    let after = Usage::at_rest(&server);
    println!("after    {after:?}");

    for path in BUTTONS {
        let mut times: Vec<_> =
            times.iter().filter(|(button, _)| *button == path).map(|(_, time)| *time).collect();
        println!("{path:16} {}", summary(&mut times));
    }
    let mut all: Vec<_> = times.drain(..).map(|(_, time)| time).collect();
    println!("{:16} {}", "all", summary(&mut all));
    let p99 = percentile(&all, 99);
    assert!(p99 <= LIMIT + LATE, "p99 is {p99:?}");
    assert!(after.descriptors <= before.descriptors, "descriptors: {before:?}, {after:?}");
    assert!(after.threads <= before.threads, "threads: {before:?}, {after:?}");
    // Names of functions are kept, the more of them the more reports there were. A leak grows with the time.
    assert!(after.resident_kb <= before.resident_kb + 65_536, "memory: {before:?}, {after:?}");
}

fn press_for(server: &Server, time: Duration) -> Vec<(&'static str, Duration)> {
    let (until, times) = (Instant::now() + time, Mutex::new(Vec::new()));
    let clients = 2 * thread::available_parallelism().map_or(1, usize::from) as u64;
    thread::scope(|scope| {
        for client in 0..clients {
            let times = &times;
            scope.spawn(move || {
                let mut random = Random(client + 1);
                while Instant::now() < until {
                    let path = BUTTONS[random.below(BUTTONS.len())];
                    let goes_away =
                        (random.below(20) == 0).then(|| Duration::from_millis(random.below(400) as u64));
                    let start = Instant::now();
                    let status = press(&server.address, path, goes_away).unwrap();
                    if goes_away.is_none() {
                        let expected: &[u16] = match path {
                            "/hang/upstream" | "/hang/join" => &[504],
                            _ if path.starts_with("/hang/") => &[503, 504],
                            _ => &[200],
                        };
                        assert!(expected.contains(&status), "{path} is answered with {status}");
                        times.lock().unwrap().push((path, start.elapsed()));
                    }
                }
            });
        }
    });
    times.into_inner().unwrap()
}

/// The status of the answer, once all of it is there. 0 if the client goes away before.
fn press(address: &str, path: &str, goes_away: Option<Duration>) -> io::Result<u16> {
    let mut stream = TcpStream::connect(address)?;
    stream
        .set_read_timeout(Some(goes_away.unwrap_or(Duration::from_secs(60)).max(Duration::from_millis(1))))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
    let (mut status, mut rest) = (String::new(), Vec::new());
    let mut answer = BufReader::new(stream);
    match answer.read_line(&mut status).and_then(|_| answer.read_to_end(&mut rest)) {
        Ok(_) => Ok(status.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)),
        Err(_) if goes_away.is_some() => Ok(0),
        Err(error) => Err(error),
    }
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted
        .get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or_default()
}

fn summary(times: &mut [Duration]) -> String {
    times.sort();
    let [median, p99, most] = [50, 99, 100].map(|percent| percentile(times, percent));
    format!("{:6} answers, p50 {median:9.1?}, p99 {p99:9.1?}, longest {most:9.1?}", times.len())
}

/// What the server's process uses, as the system sees it.
#[derive(Debug)]
struct Usage {
    /// Without the pages of files, such as the program's own symbols.
    resident_kb: u64,
    threads: u64,
    descriptors: usize,
}

impl Usage {
    /// Waits until the server has had the same number of threads and descriptors for a while.
    fn at_rest(server: &Server) -> Self {
        let start = Instant::now();
        let (mut usage, mut since) = (Self::of(server), start);
        while since.elapsed() < QUIET {
            assert!(start.elapsed() < HANG, "the server is never at rest: {usage:?}");
            thread::sleep(Duration::from_millis(100));
            let now = Self::of(server);
            if (now.threads, now.descriptors) != (usage.threads, usage.descriptors) {
                since = Instant::now();
            }
            usage = now;
        }
        usage
    }

    fn of(server: &Server) -> Self {
        let process = format!("/proc/{}", server.id());
        let status = fs::read_to_string(format!("{process}/status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().next().unwrap().parse().unwrap()
        };
        let descriptors = fs::read_dir(format!("{process}/fd")).unwrap().count();
        Self { resident_kb: field("RssAnon:"), threads: field("Threads:"), descriptors }
    }
}

/// xorshift
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap()
    }
}
