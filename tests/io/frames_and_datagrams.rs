//! Half a frame, datagrams, descriptors that the crate does not know, and names.

use std::error::Error as _;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use timebox::io::{Timed, connect, readable, writable};
use timebox::{Limit, timeout};

use super::{HANG, LONG, SHORT, is_nonblocking, over, runs_out};

#[test]
fn half_a_frame_is_kept_where_its_buffer_is_outside_of_the_limit() {
    let (ours, mut peer) = UnixStream::pair().unwrap();
    let ours = Timed::new(ours);
    let mut half = Vec::new();
    let whole = |half: &mut Vec<u8>| {
        let missing = 4 - half.len();
        (&ours).take(missing as u64).read_to_end(half)
    };
    for come in [b"la", b"te"] {
        over(timeout(SHORT, || whole(&mut half)));
        peer.write_all(come).unwrap();
        // On a busy machine the limit may pass before a byte is read.
        while half.len() < 2 {
            let _ended = timeout(SHORT, || whole(&mut half));
        }
    }
    whole(&mut half).unwrap();
    assert_eq!(half, b"late");
}

#[test]
fn a_datagram_socket_is_waited_for_and_usable_afterwards() {
    let ours = std::sync::Arc::new(UdpSocket::bind("127.0.0.1:0").unwrap());
    let address = ours.local_addr().unwrap();
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    let timed = Timed::new(ours.clone());
    let mut buffer = [0; 8];
    runs_out(|| timed.recv_from(&mut buffer));
    runs_out(|| timed.recv(&mut buffer));
    runs_out(|| Timed::new(&*ours).recv_from(&mut buffer));
    assert!(!is_nonblocking(&ours));

    // In a scope and outside, and an empty one is a datagram too.
    for limit in [Limit::NONE, LONG.into()] {
        for sent in [&b"hello"[..], b""] {
            let sender = Timed::new(&peer);
            assert_eq!(timeout(limit.clone(), || sender.send_to(sent, address)).unwrap(), sent.len());
            let (length, from) = timeout(limit.clone(), || timed.recv_from(&mut buffer)).unwrap();
            assert_eq!((&buffer[..length], from), (sent, peer.local_addr().unwrap()));
        }
    }
    over(timeout(Duration::ZERO, || timed.send_to(b"x", address)));
    let error = timeout(LONG, || timed.send_to(b"x", &[][..])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);

    peer.connect(address).unwrap();
    ours.connect(peer.local_addr().unwrap()).unwrap();
    timeout(LONG, || Timed::new(&peer).send(b"hi")).unwrap();
    assert_eq!(timeout(LONG, || timed.recv(&mut buffer)).unwrap(), 2);
    // Whoever has the socket as it is may have set it so; it is waited for all the same.
    ours.set_nonblocking(true).unwrap();
    runs_out(|| timed.recv_from(&mut buffer));
}

#[test]
fn an_unknown_descriptor_is_waited_for() {
    let (reader, mut writer) = io::pipe().unwrap();
    runs_out(|| readable(&reader));
    writer.write_all(b"x").unwrap();
    timeout(LONG, || readable(&reader)).unwrap();
    readable(&reader).unwrap();
    over(timeout(Duration::ZERO, || readable(&reader)));
    timeout(LONG, || writable(&writer)).unwrap();
    writable(&writer).unwrap();
    let mut full = Timed::new(&writer);
    over(timeout(SHORT, || full.write_all(&vec![0; 32 << 20])));
    runs_out(|| writable(&writer));
    let error = over(timeout(LONG, || {
        let token = timebox::token();
        let canceller = thread::spawn(move || token.cancel_with("not needed"));
        let result = writable(&writer);
        canceller.join().unwrap();
        result
    }));
    assert_eq!(error.reason(), Some("not needed"));
    // Its end is something to read, and what its reader has left is something to be told.
    drop(writer);
    timeout(LONG, || readable(&reader)).unwrap();
}

/// A name whose resolver fails when its time, and that of the scope, is over.
struct SlowName;

impl std::net::ToSocketAddrs for SlowName {
    type Iter = std::vec::IntoIter<SocketAddr>;

    fn to_socket_addrs(&self) -> io::Result<Self::Iter> {
        while timebox::remaining().is_some_and(|left| !left.is_zero()) {
            thread::sleep(Duration::from_millis(1));
        }
        Err(io::Error::other("no name server answers"))
    }
}

#[test]
fn where_the_scope_is_over_the_resolvers_error_is_its_source() {
    let socket = Timed::new(UdpSocket::bind("127.0.0.1:0").unwrap());
    let connecting: &dyn Fn() -> io::Result<()> = &|| connect(SlowName).map(drop);
    let sending: &dyn Fn() -> io::Result<()> = &|| socket.send_to(b"x", SlowName).map(drop);
    for call in [connecting, sending] {
        let mut limit = SHORT;
        loop {
            let error = over(timeout(limit, call));
            assert_eq!(error.limit(), Some(limit));
            if let Some(source) = error.source() {
                assert_eq!(source.to_string(), "no name server answers");
                break;
            }
            // On a busy machine the scope may be over before the resolver is asked.
            limit *= 3;
            assert!(limit < HANG, "its error is lost: {error:?}");
        }
        let error = timeout(Limit::NONE, call).unwrap_err();
        assert_eq!(error.to_string(), "no name server answers", "with time left it is the resolver's");
    }
}
