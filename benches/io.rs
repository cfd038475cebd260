//! A write and a read of 64 bytes on a socket that is ready: plain, and with a limit.
//!
//! Before criterion's figures stand those of rounds in turns, whose ratios bear a busy machine.

#[allow(
    dead_code,
    unused_macros,
    unused_imports,
    reason = "shared by the benches, each of which uses its part"
)]
mod measure;

use std::hint::black_box;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use criterion::{Criterion, criterion_group};
use measure::{Case, Plan, Run, Series, over, seconds};
use timebox::io::Timed;
use timebox::{Hook, interruptible, timeout};

/// Writes and reads, in a scope, as many times as asked.
fn exchange<S: 'static>(
    wrap: impl FnOnce(UnixStream) -> S,
    mut read: impl FnMut(&S, &mut [u8]) -> io::Result<()> + 'static,
) -> Run {
    let (stream, mut peer) = UnixStream::pair().unwrap();
    let stream = wrap(stream);
    Box::new(move |n| {
        let mut buffer = [0; 64];
        let result = timeout(seconds(3600), || -> io::Result<()> {
            for _ in 0..n {
                peer.write_all(black_box(&[7; 64]))?;
                read(&stream, &mut buffer)?;
            }
            Ok(())
        });
        if result.is_err() {
            over();
        }
    })
}

fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "exchange/plain",
            make: || exchange(|stream| stream, |mut stream, buffer| stream.read_exact(buffer)),
        },
        Case {
            name: "exchange/timed",
            make: || exchange(Timed::new, |mut stream, buffer| stream.read_exact(buffer)),
        },
        Case {
            name: "exchange/interruptible",
            make: || {
                let read = |mut stream: &UnixStream, buffer: &mut [u8]| {
                    let hook = Hook::inline(|| stream.shutdown(Shutdown::Both)).spoils();
                    interruptible(hook, || (&mut stream).read_exact(buffer))?
                };
                exchange(|stream| stream, read)
            },
        },
        Case {
            name: "exchange/set_read_timeout",
            make: || {
                let read = |mut stream: &UnixStream, buffer: &mut [u8]| {
                    stream.set_read_timeout(timebox::remaining())?;
                    stream.read_exact(buffer)
                };
                exchange(|stream| stream, read)
            },
        },
    ]
}

fn print_in_turns() {
    let runs: Vec<Vec<Series>> = (0..3).map(|_| measure::interleave(&cases(), Plan::FULL)).collect();
    let least = |i: usize| runs.iter().map(|run| run[i].min()).fold(f64::INFINITY, f64::min);
    println!("| case | min, ns | more than plain | / plain |\n|---|---|---|---|");
    for (i, case) in runs[0].iter().enumerate() {
        let (ns, plain) = (least(i), least(0));
        println!("| `{}` | {ns:.0} | {:.0} | {:.2} |", case.name, ns - plain, ns / plain);
    }
}

fn ready(criterion: &mut Criterion) {
    measure::criterion(criterion, &cases(), &["exchange"]);
}

criterion_group!(benches, ready);

fn main() {
    if measure::measuring() {
        print_in_turns();
    }
    benches();
    Criterion::default().configure_from_args().final_summary();
}
