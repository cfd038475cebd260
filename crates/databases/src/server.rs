//! Real servers for tests and examples, started from the machine's own binaries on free loopback ports.
//!
//! A server is the child of a small shell script. The script's standard input is a pipe from this process. The pipe
//! closes when the [`Server`] is dropped, or when this process ends, however it ends. Then the script stops the server
//! and removes the server's folder.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long a server may take to start on the slowest, busiest machine.
const START: Duration = Duration::from_secs(120);

/// A kind of server. The shell lines `prepare` and `run` get the paths of `binaries` as `$1` and `$2`.
struct Kind {
    name: &'static str,
    binaries: [&'static str; 2],
    /// If this program runs as root, the server runs as the first of these users that exists.
    users: [&'static str; 2],
    prepare: &'static str,
    run: &'static str,
    stop: &'static str,
}

const POSTGRES: Kind = Kind {
    name: "PostgreSQL",
    binaries: ["postgres", "initdb"],
    users: ["postgres", "nobody"],
    prepare: r#"$AS "$2" -D data -U postgres -A trust --no-sync -E UTF8 --locale=C"#,
    run: r#"$AS "$1" -D data -c listen_addresses=127.0.0.1 -c port=$PORT -c unix_socket_directories= \
        -c fsync=off -c full_page_writes=off -c synchronous_commit=off"#,
    stop: "QUIT", // after SIGKILL, PostgreSQL's shared memory would remain
};

const MARIADB: Kind = Kind {
    name: "MariaDB",
    binaries: ["mariadbd", "mariadb-install-db"],
    users: ["mysql", "nobody"],
    prepare: r#"$AS "$2" --no-defaults --datadir="$PWD/data" --auth-root-authentication-method=normal --skip-test-db"#,
    run: r#"$AS "$1" --no-defaults --datadir="$PWD/data" --bind-address=127.0.0.1 --port=$PORT \
        --socket="$PWD/socket" --pid-file="$PWD/pid" --skip-name-resolve --innodb-flush-log-at-trx-commit=0"#,
    stop: "KILL",
};

const REDIS: Kind = Kind {
    name: "Redis",
    binaries: ["redis-server", "redis-server"],
    users: ["redis", "nobody"],
    prepare: ":",
    run: r#"$AS "$1" --bind 127.0.0.1 --port $PORT --dir "$PWD" --save "" --appendonly no"#,
    stop: "KILL",
};

/// Starts a server. Once the script's standard input is closed, stops the server with the signal `$0`.
const SCRIPT: &str = r#"
    set -e
    trap 'code=$?; [ $code = 0 ] || cat log >&2; cd /; rm -rf "$FOLDER"' EXIT
    cd "$FOLDER"
    { PREPARE
    } </dev/null >>log 2>&1
    RUN </dev/null >>log 2>&1 &
    server=$!
    echo $server
    read -r line || :
    exec 2>/dev/null
    kill -$0 $server || :
    wait $server || :
    exit 0
"#;

#[derive(Debug)]
pub struct Server {
    port: u16,
    pid: i32,
    lifeline: Option<ChildStdin>,
    script: Child,
}

impl Server {
    pub fn postgres() -> Option<Self> {
        Self::start(&POSTGRES, |port| {
            let mut config = postgres::Config::new();
            config.host("127.0.0.1").port(port).user("postgres");
            config.connect(postgres::NoTls).is_ok()
        })
    }

    pub fn mariadb() -> Option<Self> {
        Self::start(&MARIADB, |port| {
            let options = mysql::OptsBuilder::new().ip_or_hostname(Some("127.0.0.1")).tcp_port(port);
            mysql::Conn::new(options.user(Some("root")).prefer_socket(false)).is_ok()
        })
    }

    pub fn redis() -> Option<Self> {
        Self::start(&REDIS, |port| {
            let client = redis::Client::open(("127.0.0.1", port)).expect("an address");
            client
                .get_connection()
                .is_ok_and(|mut connection| redis::cmd("PING").exec(&mut connection).is_ok())
        })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// The id of the server's own process, not of the script. Tests kill this process.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// If the machine has no such server: panics if the environment sets `TIMEBOX_REQUIRE_SERVERS`. Otherwise prints a
    /// line that names the missing program, and returns `None`.
    fn start(kind: &Kind, is_ready: impl Fn(u16) -> bool) -> Option<Self> {
        let found: Option<Vec<_>> = kind.binaries.iter().map(|name| find(name)).collect();
        let Some(binaries) = found else {
            let text = format!("{}: this machine has no {}", kind.name, kind.binaries.join(" or no "));
            assert!(env::var_os("TIMEBOX_REQUIRE_SERVERS").is_none(), "{text}");
            // Not with `eprintln!`, because the test harness hides what that macro prints.
            writeln!(std::io::stderr(), "\nSKIPPED: {text}").expect("standard error is there");
            return None;
        };
        // Another process may take the free port before the server does, so the server is started up to three times.
        for _ in 0..3 {
            let server = Self::launch(kind, &binaries);
            if server.becomes_ready(&is_ready) {
                return Some(server);
            }
        }
        panic!("{} does not start", kind.name);
    }

    fn launch(kind: &Kind, binaries: &[PathBuf]) -> Self {
        let folder =
            tempfile::Builder::new().prefix("timebox-").tempdir().expect("a temporary folder").keep();
        let switch_to = unprivileged(kind, &folder);
        let port =
            TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
        let mut command = Command::new("sh");
        command.arg("-c").arg(SCRIPT.replace("PREPARE", kind.prepare).replace("RUN", kind.run));
        command.arg(kind.stop).args(binaries);
        command.env("FOLDER", &folder).env("PORT", port.to_string()).env("AS", switch_to.unwrap_or_default());
        // Ctrl-C must reach only this program. The script must live on, because it stops the server once this program
        // has ended.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut script =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("there is a shell");
        let lifeline = script.stdin.take();
        let mut pid = String::new();
        let output = script.stdout.take().expect("it is piped");
        BufReader::new(output).read_line(&mut pid).expect("a pipe can be read");
        let pid = pid.trim().parse().unwrap_or_else(|_| panic!("{} cannot be prepared", kind.name));
        Self { port, pid, lifeline, script }
    }

    fn becomes_ready(&self, is_ready: &impl Fn(u16) -> bool) -> bool {
        let start = Instant::now();
        while start.elapsed() < START {
            if is_ready(self.port) {
                return true;
            }
            if is_gone(self.pid) {
                return false;
            }
            thread::sleep(Duration::from_millis(10));
        }
        false
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.lifeline.take());
        let _ = self.script.wait();
    }
}

/// Whether the process has ended. A zombie (its parent has not waited for it yet) counts as ended. Without `/proc`,
/// `false`.
fn is_gone(pid: i32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return Path::new("/proc/self").exists();
    };
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
}

/// Looks for a server's program in the search path, and in folders where distributions keep servers without adding them
/// to the path. `None` if the program is in none of these.
fn find(binary: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = env::split_paths(&path).collect();
    folders.extend(["/usr/sbin", "/usr/local/sbin", "/usr/libexec"].map(PathBuf::from));
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    folders.extend(versions.map(|version| version.path().join("bin")));
    folders.into_iter().map(|folder| folder.join(OsStr::new(binary))).find(|file| file.is_file())
}

/// A server may refuse to run as root. So if this process is root, gives the folder to another user, and returns the
/// words that make the server's command run as that user. `None` if this process is not root.
#[cfg(unix)]
fn unprivileged(kind: &Kind, folder: &Path) -> Option<String> {
    // SAFETY: `geteuid` only returns a number.
    if unsafe { libc::geteuid() } != 0 {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").expect("there are users");
    let numbers = |name: &&str| {
        let mut fields = users.lines().find(|line| line.split(':').next() == Some(name))?.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    let (user, group) = kind.users.iter().find_map(numbers).expect("there is an unprivileged user");
    std::os::unix::fs::chown(folder, Some(user), Some(group)).expect("root may do that");
    Some(format!("setpriv --reuid={user} --regid={group} --clear-groups --"))
}

#[cfg(not(unix))]
fn unprivileged(_: &Kind, _: &Path) -> Option<String> {
    None
}
