//! A request hangs, and the report says where. This is the story of Bitbucket's dogslow.
//!
//! A handler asks Redis for a session. Redis has stopped answering, so the handler stands in `read` for ever. No log
//! line says so. The policy below was one line in `main`: it makes the watchdog look at each request that runs too
//! long, and write down where its thread stands, down to the socket and the address of the server.
//!
//! Run it: `cargo run --example slow_request --features report`

use std::error::Error;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use timebox::{Timebox, report};

/// The server: a Redis of this machine, or a peer that accepts and never answers.
enum Server {
    Redis(Child, SocketAddr),
    Silent(TcpListener),
}

impl Server {
    fn start() -> io::Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let arguments = ["--port", &port.to_string(), "--save", "", "--appendonly", "no"];
        let started = Command::new("redis-server").args(arguments).stdout(Stdio::null()).spawn();
        let Ok(child) = started else {
            println!("There is no redis-server on this machine. A silent peer stands in for it.\n");
            return Ok(Self::Silent(TcpListener::bind("127.0.0.1:0")?));
        };
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let until = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(address).is_err() && Instant::now() < until {
            thread::sleep(Duration::from_millis(20));
        }
        println!("A redis-server was started at {address}. It is about to stop answering.\n");
        Ok(Self::Redis(child, address))
    }

    fn address(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Redis(_, address) => Ok(*address),
            Self::Silent(listener) => listener.local_addr(),
        }
    }

    /// What an overloaded or frozen machine looks like from outside: the connection stays open, and nothing comes.
    fn stop_answering(&self) -> io::Result<()> {
        if let Self::Redis(child, _) = self {
            Command::new("kill").args(["-STOP", &child.id().to_string()]).status()?;
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Self::Redis(child, _) = self {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

struct Cache(BufReader<TcpStream>);

impl Cache {
    #[inline(never)]
    fn get(&mut self, key: &str) -> io::Result<String> {
        self.0.get_mut().write_all(format!("GET {key}\r\n").as_bytes())?;
        let mut reply = String::new();
        self.0.read_line(&mut reply)?;
        Ok(reply)
    }
}

#[inline(never)]
fn load_session(cache: &mut Cache, user: u32) -> io::Result<String> {
    cache.get(&format!("session:{user}"))
}

#[inline(never)]
fn show_repository(cache: &mut Cache, user: u32) -> io::Result<String> {
    let session = load_session(cache, user)?;
    Ok(format!("<html>{}</html>", session.trim()))
}

fn main() -> Result<(), Box<dyn Error>> {
    // The one line.
    report::Policy::new().warn_after(Duration::from_millis(500)).to(report::Stderr).install()?;

    let server = Server::start()?;
    let stream = TcpStream::connect(server.address()?)?;
    // The example ends after three seconds. Production code often has no such line.
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    server.stop_answering()?;

    let mut cache = Cache(BufReader::new(stream));
    let request = Timebox::new(Duration::from_secs(2)).label("GET /repositories/42").field("user", 42);
    let answer = request.run(|_| -> Result<_, Box<dyn Error>> { Ok(show_repository(&mut cache, 42)?) });
    println!("The request ended: {}", answer.unwrap_or_else(|error| error.to_string()));
    report::flush(Duration::from_secs(10));
    Ok(())
}
