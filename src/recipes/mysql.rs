use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use filedescriptor::FileDescriptor;
use mysql::prelude::Queryable;
use mysql::{Conn, Opts, OptsBuilder};
use timebox::{Hook, interruptible};

use super::control::{self, AnyError, BOUND, Doubt, Failure, is_open, two_steps};

/// Identifies the session of a connection to the server. Call [`session`] once after connecting, and again after each
/// reset of the connection.
pub struct Session {
    /// The name of a lock that this connection holds. No other session and no other server has this lock, so the name
    /// identifies the session.
    pub lock: String,
    pub doubt: Doubt,
}

pub fn session(connection: &mut Conn) -> Result<Session, AnyError> {
    let lock: Option<String> = connection.query_first("select concat('timebox ', uuid())")?;
    let lock = lock.ok_or("no name")?;
    let taken: Option<bool> = connection.exec_first("select get_lock(?, 0)", (&lock,))?;
    taken.filter(|taken| *taken).ok_or("the lock is not to be had")?;
    Ok(Session { lock, doubt: Doubt::about(socket(connection)?) })
}

/// A second handle to the connection's socket, because the client lends only the number of the descriptor.
fn socket(connection: &Conn) -> Result<TcpStream, AnyError> {
    let second = FileDescriptor::dup(connection)?;
    Ok(OwnedFd::from(second.as_file()?).into())
}

/// A connection that kills queries on other connections. A pool needs only one. It may log in as the same user as the
/// other connections.
pub struct Control(control::Control<(Conn, TcpStream)>);

impl Control {
    pub fn new(options: &Opts) -> Result<Arc<Self>, AnyError> {
        Self::with_bound(options, BOUND)
    }

    pub fn with_bound(options: &Opts, bound: Duration) -> Result<Arc<Self>, AnyError> {
        let options = options.clone();
        let connect = move |left: Duration| {
            // This bounds each wait of the client, not all of its waits together. If the server is silent from the
            // start, the client waits at most twice: for the connection, and for the first packet.
            let wait = Some(left / 2);
            let options = OptsBuilder::from_opts(options.clone()).tcp_connect_timeout(wait);
            let connection = Conn::new(options.read_timeout(wait).write_timeout(wait))?;
            let socket = socket(&connection)?;
            Ok((connection, socket))
        };
        Ok(Arc::new(Self(control::Control::new(bound, connect, |(_, socket)| is_open(socket))?)))
    }

    /// Kills the query of the session that holds `lock`, and leaves that session's connection open. When this returns
    /// `Ok`, the server has marked the query as killed, and no cancel is on its way any more.
    pub fn kill_query(&self, lock: &str) -> Result<(), Failure> {
        self.0.run(|(connection, socket), left| {
            socket.set_read_timeout(Some(left)).map_err(|error| Failure::Refused(error.into()))?;
            // On a server that does not know the lock, `is_used_lock` is null. So the statement fails with error 1094,
            // no such thread.
            match connection.query_drop(format!("kill query is_used_lock('{lock}')")) {
                Ok(()) => Ok(()),
                Err(mysql::Error::MySqlError(error)) if error.code == 1094 => {
                    Err(Failure::Refused("the session is not on this server".into()))
                }
                Err(error @ mysql::Error::MySqlError(_)) => Err(Failure::Refused(error.into())),
                Err(error) => Err(Failure::Unanswered(error.into())),
            }
        })
    }

    pub fn hook(self: &Arc<Self>, session: &Session) -> Hook<'static> {
        let (control, lock) = (Arc::clone(self), session.lock.clone());
        two_steps(self.0.bound(), &session.doubt, move || control.kill_query(&lock))
    }
}

/// Runs one statement of a session. The end of the scope around the call kills the statement. The closure must read all
/// rows: unread rows borrow the connection, so `T: 'static` forbids to return them.
pub fn guarded<T: 'static>(
    control: &Arc<Control>,
    session: &Session,
    statement: impl FnOnce() -> mysql::Result<T>,
) -> Result<T, AnyError> {
    Ok(interruptible(control.hook(session), statement)??)
}

/// Like [`guarded`], for a statement that may return a value although it was killed. If the hook has fired, a value
/// counts as an error.
pub fn guarded_strictly<T: 'static>(
    control: &Arc<Control>,
    session: &Session,
    statement: impl FnOnce() -> mysql::Result<T>,
) -> Result<T, AnyError> {
    Ok(interruptible(control.hook(session).spoils(), statement)??)
}
