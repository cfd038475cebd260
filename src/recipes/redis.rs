use std::io::Write;
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use redis::{
    Client, ConnectionAddr, ConnectionLike, ErrorKind, InfoDict, Msg, Parser, PubSub, RedisResult, Value, cmd,
};
use timebox::{Hook, checkpoint, interruptible};

use super::control::{self, AnyError, BOUND, Doubt, Failure, is_open, two_steps};

/// Identifies the session of a connection to the server. The server is asked once, after connecting.
#[derive(Clone)]
pub struct Session {
    pub id: i64,
    pub server: String,
    pub doubt: Doubt,
}

/// The session of a connection. The client hides the socket, so no hook can shut it down: only `CLIENT UNBLOCK` ends a
/// command.
pub fn session(connection: &mut impl ConnectionLike) -> Result<Session, AnyError> {
    let id = cmd("CLIENT").arg("ID").query(connection)?;
    Ok(Session { id, server: server(connection)?, doubt: Doubt::default() })
}

/// The name that a server gave itself when it started.
fn server(connection: &mut impl ConnectionLike) -> Result<String, AnyError> {
    let info: InfoDict = cmd("INFO").arg("server").query(connection)?;
    Ok(info.get("run_id").ok_or("the server does not say its name")?)
}

/// A connection that ends blocked calls on other connections, with `CLIENT UNBLOCK`. A pool needs only one.
pub struct Control(control::Control<(Connection, Session)>);

impl Control {
    pub fn new(client: &Client) -> Result<Arc<Self>, AnyError> {
        Self::with_bound(client, BOUND)
    }

    pub fn with_bound(client: &Client, bound: Duration) -> Result<Arc<Self>, AnyError> {
        let client = client.clone();
        let connect = move |left| Connection::connect(&client, left);
        Ok(Arc::new(Self(control::Control::new(bound, connect, |(own, _)| is_open(&own.socket))?)))
    }

    /// If a command blocks the session, makes the server end that command with an error. Otherwise nothing happens.
    pub fn unblock(&self, id: i64, server: &str) -> Result<(), Failure> {
        self.0.run(|(connection, own), left| {
            if server != own.server {
                return Err(Failure::Refused("the session is not on this server".into()));
            }
            connection.socket.set_read_timeout(Some(left)).map_err(|error| Failure::Refused(error.into()))?;
            let result = cmd("CLIENT").arg("UNBLOCK").arg(id).arg("ERROR").exec(connection);
            result.map_err(|error| match error.kind() {
                ErrorKind::Server(_) | ErrorKind::Extension => Failure::Refused(error.into()),
                _ => Failure::Unanswered(error.into()),
            })
        })
    }

    pub fn hook(self: &Arc<Self>, session: &Session) -> Hook<'static> {
        let (control, Session { id, server, doubt }) = (Arc::clone(self), session.clone());
        two_steps(self.0.bound(), &doubt, move || control.unblock(id, &server))
    }
}

/// Runs one command of a session. If the scope around the call is over, the command ends. `T: 'static` rejects a
/// closure that returns an iterator over the connection: such an iterator would ask the server only after this call.
pub fn guarded<T: 'static>(
    control: &Arc<Control>,
    session: &Session,
    command: impl FnOnce() -> RedisResult<T>,
) -> Result<T, AnyError> {
    Ok(interruptible(control.hook(session), command)??)
}

/// A connection on a socket that this code opens. Every command can be ended: by the server, or else by the shutdown of
/// the socket.
pub struct Connection {
    socket: TcpStream,
    parser: Parser,
    open: bool,
    db: i64,
}

impl Connection {
    /// Connects and logs in, as the client would.
    pub fn connect(client: &Client, within: Duration) -> Result<(Self, Session), AnyError> {
        let info = client.get_connection_info();
        let ConnectionAddr::Tcp(host, port) = info.addr() else { return Err("not a TCP address".into()) };
        // There are at most five waits: one to connect, and four for the answers below. So each wait gets a fifth of
        // the time.
        let wait = within / 5;
        let server = (host.as_str(), *port).to_socket_addrs()?.next().ok_or("an unknown host")?;
        let socket = TcpStream::connect_timeout(&server, wait)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(wait))?;
        let settings = info.redis_settings();
        let mut connection = Self { socket, parser: Parser::new(), open: true, db: settings.db() };
        if let Some(password) = settings.password() {
            cmd("AUTH").arg(settings.username()).arg(password).exec(&mut connection)?;
        }
        if settings.db() != 0 {
            cmd("SELECT").arg(settings.db()).exec(&mut connection)?;
        }
        let session = session(&mut connection)?;
        connection.socket.set_read_timeout(None)?;
        let doubt = Doubt::about(connection.socket.try_clone()?);
        Ok((connection, Session { doubt, ..session }))
    }

    fn send(&mut self, bytes: &[u8]) -> RedisResult<()> {
        let result = self.socket.write_all(bytes).map_err(Into::into);
        self.checked(result)
    }

    fn receive(&mut self) -> RedisResult<Value> {
        let result = self.parser.parse_value(&self.socket);
        self.checked(result)
    }

    /// Closes the connection after an error. Otherwise a late answer could be taken for the answer to the next command.
    fn checked<T>(&mut self, result: RedisResult<T>) -> RedisResult<T> {
        if result.is_err() {
            self.open = false;
            let _ = self.socket.shutdown(Shutdown::Both);
        }
        result
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command(&mut self, command: &[u8]) -> RedisResult<Value> {
        self.send(command)?;
        self.receive()
    }

    fn req_packed_commands(&mut self, commands: &[u8], skip: usize, count: usize) -> RedisResult<Vec<Value>> {
        self.send(commands)?;
        for _ in 0..skip {
            self.receive()?;
        }
        (0..count).map(|_| self.receive()).collect()
    }

    fn get_db(&self) -> i64 {
        self.db
    }

    fn check_connection(&mut self) -> bool {
        cmd("PING").exec(self).is_ok()
    }

    fn is_open(&self) -> bool {
        self.open
    }
}

/// Waits for a subscriber's next message. Waits in slices, because the server offers no way to end such a wait. The end
/// of a slice neither ends the subscription nor loses a message.
pub fn next_message(subscriber: &mut PubSub<'_>) -> Result<Msg, AnyError> {
    const SLICE: Duration = Duration::from_millis(20);
    subscriber.set_read_timeout(Some(SLICE))?;
    loop {
        checkpoint()?;
        match subscriber.get_message() {
            Err(error) if error.is_timeout() => {}
            result => return Ok(result?),
        }
    }
}
