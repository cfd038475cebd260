//! A proxy between a client and its server. It stands for a balancer, a failover, or a network that falls silent.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use crate::support::HANG;

pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    target: SocketAddr,
    /// While this is `true`, the proxy holds data back, but for no longer than twice `HANG`.
    silent: bool,
    stopped: bool,
    /// Two sockets for each connection that was made: to the client and to the server.
    ends: Vec<TcpStream>,
    threads: Vec<JoinHandle<()>>,
}

impl Proxy {
    pub(crate) fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = State { target, silent: false, stopped: false, ends: Vec::new(), threads: Vec::new() };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let accepting = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                for client in listener.incoming().map_while(Result::ok) {
                    if !Shared::forward(&shared, client) {
                        return;
                    }
                }
            }
        });
        Self { address, shared, accepting: Some(accepting) }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets the server for connections that are made from now on.
    pub(crate) fn lead_to(&self, target: SocketAddr) {
        self.shared.locked().target = target;
    }

    pub(crate) fn set_silent(&self, silent: bool) {
        self.shared.locked().silent = silent;
        self.shared.changed.notify_all();
    }

    pub(crate) fn connections(&self) -> usize {
        self.shared.locked().ends.len() / 2
    }

    pub(crate) fn cut(&self) {
        for end in &self.shared.locked().ends {
            let _ = end.shutdown(Shutdown::Both);
        }
    }

    /// Makes the system drop all packets that come in on the present connections. So not even the system acknowledges
    /// them.
    #[cfg(target_os = "linux")]
    pub(crate) fn drop_packets(&self) {
        use std::os::fd::AsRawFd;
        let mut drop_all = libc::sock_filter { code: 6, jt: 0, jf: 0, k: 0 }; // BPF_RET: keep no byte
        let program = libc::sock_fprog { len: 1, filter: &raw mut drop_all };
        let size = libc::socklen_t::try_from(size_of_val(&program)).unwrap();
        for end in &self.shared.locked().ends {
            let (level, name, value) = (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &raw const program);
            // SAFETY: the filter program, to which `value` points, exists during the call, and the call copies it.
            let result = unsafe { libc::setsockopt(end.as_raw_fd(), level, name, value.cast(), size) };
            assert_eq!(result, 0);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.locked().stopped = true;
        self.shared.changed.notify_all();
        self.cut();
        let _ = TcpStream::connect(self.address); // wakes the accepting thread, which then sees `stopped`
        let _ = self.accepting.take().map(JoinHandle::join);
        let threads = std::mem::take(&mut self.shared.locked().threads);
        for thread in threads {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connects `client` to the server, and forwards in both directions. If the server refuses the connection, closes
    /// `client`. Returns `false` once the proxy is stopped.
    fn forward(shared: &Arc<Self>, client: TcpStream) -> bool {
        let mut state = shared.locked();
        if state.stopped {
            return false;
        }
        let Ok(server) = TcpStream::connect(state.target) else { return true };
        for (from, to) in [(&client, &server), (&server, &client)] {
            let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            let shared = Arc::clone(shared);
            state.threads.push(thread::spawn(move || shared.pump(from, to)));
        }
        state.ends.extend([client, server]);
        true
    }

    fn pump(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            self.wait_while_silent();
            if to.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        // A silent network does not forward the end of a connection.
        self.wait_while_silent();
        let _ = to.shutdown(Shutdown::Write);
    }

    fn wait_while_silent(&self) {
        let is_silent = |state: &mut State| state.silent && !state.stopped;
        drop(self.changed.wait_timeout_while(self.locked(), 2 * HANG, is_silent));
    }
}
