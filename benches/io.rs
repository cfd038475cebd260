//! A write and a read of 64 bytes on a socket that is ready: plain, and with a limit.

use std::hint::black_box;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use timebox::io::Timed;
use timebox::{Hook, interruptible, timeout};

const LIMIT: Duration = Duration::from_secs(3600);

fn ready(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("write_and_read_64");
    let (stream, peer) = UnixStream::pair().unwrap();
    let data = [7; 64];
    let send = || (&peer).write_all(black_box(&data)).unwrap();
    let mut buffer = [0; 64];

    group.bench_function("plain", |bencher| {
        bencher.iter(|| {
            send();
            (&stream).read_exact(&mut buffer).unwrap();
        });
    });
    let timed = Timed::new(&stream);
    group.bench_function("timed", |bencher| {
        timeout(LIMIT, || -> timebox::Result<()> {
            bencher.iter(|| {
                send();
                (&timed).read_exact(&mut buffer).unwrap();
            });
            Ok(())
        })
        .unwrap();
    });
    group.bench_function("interruptible", |bencher| {
        timeout(LIMIT, || -> timebox::Result<()> {
            bencher.iter(|| {
                send();
                let hook = Hook::inline(|| stream.shutdown(Shutdown::Both)).spoils();
                interruptible(hook, || (&stream).read_exact(&mut buffer)).unwrap().unwrap();
            });
            Ok(())
        })
        .unwrap();
    });
    group.bench_function("set_read_timeout", |bencher| {
        timeout(LIMIT, || -> timebox::Result<()> {
            bencher.iter(|| {
                send();
                stream.set_read_timeout(timebox::remaining()).unwrap();
                (&stream).read_exact(&mut buffer).unwrap();
            });
            Ok(())
        })
        .unwrap();
    });
    group.finish();
}

criterion_group!(benches, ready);
criterion_main!(benches);
