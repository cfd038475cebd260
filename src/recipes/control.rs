use std::error::Error;
use std::fmt;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use timebox::Hook;

pub type AnyError = Box<dyn Error + Send + Sync>;

/// The longest time for one run of a hook. Also the time from a hook's first run to the shutdown of the socket, if the
/// call still runs then.
pub const BOUND: Duration = Duration::from_millis(500);

/// Why a call on another connection was not ended.
#[derive(Debug)]
pub enum Failure {
    /// No cancel was sent, or the server refused the cancel.
    Refused(AnyError),
    /// A cancel was sent, but no answer came. The cancel may still arrive, and then it ends the statement that runs at
    /// that time.
    Unanswered(AnyError),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => write!(f, "nothing was cancelled: {error}"),
            Self::Unanswered(error) => write!(f, "the cancel was not answered: {error}"),
        }
    }
}

impl Error for Failure {}

/// A mark on a connection. Once the mark is raised, no other statement may run on the connection: a cancel may still
/// arrive, or the socket is shut down.
#[derive(Clone, Default)]
pub struct Doubt {
    is_raised: Arc<AtomicBool>,
    /// The socket of the connection. It is shut down when the mark is raised. `None` if the client library hides the
    /// socket: then the owner of a marked connection must discard the connection.
    socket: Option<Arc<TcpStream>>,
}

impl Doubt {
    pub fn about(socket: TcpStream) -> Self {
        Self { is_raised: Arc::default(), socket: Some(Arc::new(socket)) }
    }

    pub fn raise(&self) {
        self.is_raised.store(true, SeqCst);
        if let Some(socket) = &self.socket {
            let _ = socket.shutdown(Shutdown::Both); // the shutdown fails if the connection is already lost
        }
    }

    pub fn is_raised(&self) -> bool {
        self.is_raised.load(SeqCst)
    }
}

/// A hook with two steps. The first step asks the server to cancel the statement. The second step comes `bound` later,
/// if the call still runs, and shuts down the socket of `doubt`: the server may be frozen, or the network silent. If
/// `doubt` has no socket, there is no second step.
pub fn two_steps(
    bound: Duration,
    doubt: &Doubt,
    mut cancel: impl FnMut() -> Result<(), Failure> + Send + 'static,
) -> Hook<'static> {
    let (first, second) = (doubt.clone(), doubt.clone());
    let ask = move || {
        let result = cancel();
        if let Err(Failure::Unanswered(_)) = result {
            first.raise();
        }
        result
    };
    // The server ignores a cancel that arrives before the statement. So the hook repeats the cancel until the call
    // returns.
    let hook = Hook::new(ask).every(Duration::from_millis(5));
    match doubt.socket {
        Some(_) => hook.then(bound, Hook::inline(move || second.raise()).once()),
        None => hook,
    }
}

/// A connection that ends calls on other connections. One `Control` serves all other connections. It connects in
/// advance, because connecting may take too long once a call must end.
pub struct Control<C> {
    connect: Box<dyn Fn(Duration) -> Result<C, AnyError> + Send + Sync>,
    is_open: fn(&C) -> bool,
    bound: Duration,
    place: Mutex<Place<C>>,
    changed: Condvar,
}

enum Place<C> {
    Idle(C),
    InUse,
    Lost(Trouble),
}

/// Why there is no connection, and when the next attempt may be made. The pause before an attempt grows with each
/// failure in a row. It holds for all callers together.
struct Trouble {
    attempts: u32,
    next: Instant,
    error: String,
}

impl<C> Control<C> {
    /// `connect` makes the connection, and gets the time that it may take. Before each use, `is_open` says whether the
    /// connection is still open. If it is not, a new connection is made before anything is sent.
    pub fn new(
        bound: Duration,
        connect: impl Fn(Duration) -> Result<C, AnyError> + Send + Sync + 'static,
        is_open: fn(&C) -> bool,
    ) -> Result<Self, AnyError> {
        let place = Mutex::new(Place::Idle(connect(bound)?));
        Ok(Self { connect: Box::new(connect), is_open, bound, place, changed: Condvar::new() })
    }

    pub fn bound(&self) -> Duration {
        self.bound
    }

    /// Runs `action` over the connection, and tells `action` how long it may take. `bound` limits three steps together:
    /// the wait for the connection, a new connection if the old one was lost, and the action. After a failure the
    /// connection is dropped, and the next call connects anew.
    pub fn run(&self, action: impl FnOnce(&mut C, Duration) -> Result<(), Failure>) -> Result<(), Failure> {
        let end = Instant::now() + self.bound;
        let mut turn = self.turn(end).map_err(Failure::Refused)?;
        let result = match turn.connection.take().filter(self.is_open) {
            Some(connection) => Ok(connection),
            None => left(end).and_then(|left| (self.connect)(left)).map_err(Failure::Refused),
        };
        let result = result.and_then(|mut connection| {
            action(&mut connection, left(end).map_err(Failure::Refused)?)?;
            Ok(connection)
        });
        match result {
            Ok(connection) => {
                turn.connection = Some(connection);
                Ok(())
            }
            Err(failure) => {
                let (Failure::Refused(error) | Failure::Unanswered(error)) = &failure;
                turn.error = error.to_string();
                Err(failure)
            }
        }
    }

    fn turn(&self, end: Instant) -> Result<Turn<'_, C>, AnyError> {
        let mut place = self.locked();
        loop {
            match &*place {
                Place::InUse => {
                    let left = left(end).map_err(|_| "the control connection is in use")?;
                    place = self.changed.wait_timeout(place, left).unwrap_or_else(PoisonError::into_inner).0;
                }
                Place::Lost(trouble) if trouble.next > Instant::now() => {
                    return Err(format!("the control connection failed: {}", trouble.error).into());
                }
                Place::Idle(_) | Place::Lost(_) => break,
            }
        }
        let (connection, attempts) = match std::mem::replace(&mut *place, Place::InUse) {
            Place::Idle(connection) => (Some(connection), 0),
            Place::Lost(trouble) => (None, trouble.attempts),
            Place::InUse => unreachable!("it is not in use"),
        };
        Ok(Turn { control: self, connection, attempts, error: "a panic".to_owned() })
    }

    fn locked(&self) -> MutexGuard<'_, Place<C>> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One use of the connection. Dropping it puts the connection back. If `connection` is `None`, the connection was lost
/// in this use, and the drop records the loss.
struct Turn<'a, C> {
    control: &'a Control<C>,
    connection: Option<C>,
    attempts: u32,
    error: String,
}

impl<C> Drop for Turn<'_, C> {
    fn drop(&mut self) {
        let place = match self.connection.take() {
            Some(connection) => Place::Idle(connection),
            None => {
                // The pause is 10 ms after the first failure, and twice as long after each further failure, up to a
                // second.
                let pause = Duration::from_millis((10 << self.attempts.min(7)).min(1000));
                let (attempts, error) = (self.attempts + 1, std::mem::take(&mut self.error));
                Place::Lost(Trouble { attempts, next: Instant::now() + pause, error })
            }
        };
        *self.control.locked() = place;
        self.control.changed.notify_all();
    }
}

fn left(end: Instant) -> Result<Duration, AnyError> {
    match end.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        left => Ok(left),
    }
}

/// Whether an idle connection is still open. An open connection has nothing to read yet, so a read would block. A read
/// from a closed connection returns at once.
pub fn is_open(socket: &TcpStream) -> bool {
    let look = || {
        socket.set_nonblocking(true)?;
        let seen = socket.peek(&mut [0]);
        socket.set_nonblocking(false)?;
        seen
    };
    look().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}
