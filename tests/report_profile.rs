//! Profiles of blocks and futures.

#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"), not(miri)))]

use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use timebox::report::{Doing, Profile, ProfileReport};

/// The bars are for these: several runs, each with at least 2,500 samples. Otherwise a short run with wide bounds, since tests run
/// on machines that are busy with others.
fn is_thorough() -> bool {
    std::env::var_os("TIMEBOX_THOROUGH").is_some()
}

fn seconds() -> f64 {
    if is_thorough() { 10.0 } else { 1.0 }
}

fn tolerance() -> f64 {
    if is_thorough() { 3.0 } else { 12.0 }
}

#[inline(never)]
fn spin(time: Duration) -> u64 {
    let began = Instant::now();
    let mut sum = 0_u64;
    while began.elapsed() < time {
        for n in 0..1000 {
            sum = black_box(sum.wrapping_mul(31).wrapping_add(n));
        }
    }
    sum
}

#[inline(never)]
fn parse(time: Duration) -> u64 {
    spin(time) + 1
}

#[inline(never)]
fn render(time: Duration) -> u64 {
    spin(time) + 2
}

/// The percentage of the elapsed time in a function and what it calls.
fn share(report: &ProfileReport, function: &str) -> f64 {
    let functions = report.functions();
    let of: Duration =
        functions.iter().filter(|one| one.function.ends_with(function)).map(|one| one.total).sum();
    100.0 * of.as_secs_f64() / report.elapsed().as_secs_f64()
}

fn assert_sums(report: &ProfileReport) {
    assert_eq!(report.running() + report.waiting() + report.missed(), report.elapsed());
    let stacks: Duration =
        report.stacks().iter().filter(|stack| !stack.by_handle).map(|stack| stack.time).sum();
    assert_eq!(stacks + report.missed(), report.elapsed());
}

#[test]
fn two_functions_have_their_shares() {
    let (_, report) = Profile::new().frequency(997).run(|| {
        let began = Instant::now();
        while began.elapsed().as_secs_f64() < seconds() {
            parse(Duration::from_micros(700));
            render(Duration::from_micros(300));
        }
    });
    println!("{report}");
    println!("{}", report.folded());
    assert_sums(&report);
    assert!((share(&report, "parse") - 70.0).abs() < tolerance(), "{report}");
    assert!((share(&report, "render") - 30.0).abs() < tolerance(), "{report}");
}

#[test]
fn a_block_that_computes_and_waits_shows_both() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut byte = [0];
        while stream.read(&mut byte).unwrap() == 1 {
            thread::sleep(Duration::from_micros(6_900));
            stream.write_all(&byte).unwrap();
        }
    });
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    let (shares, report) = Profile::new().frequency(997).run(|| {
        let began = Instant::now();
        let mut waited = Duration::ZERO;
        while began.elapsed().as_secs_f64() < seconds() {
            parse(Duration::from_millis(3));
            let asked = Instant::now();
            stream.write_all(&[1]).unwrap();
            stream.read_exact(&mut [0]).unwrap();
            waited += asked.elapsed();
        }
        100.0 * waited.as_secs_f64() / began.elapsed().as_secs_f64()
    });
    drop(stream);
    server.join().unwrap();
    println!("{report}");
    println!("{}", report.folded());
    assert_sums(&report);
    let waiting = 100.0 * report.waiting().as_secs_f64() / report.elapsed().as_secs_f64();
    assert!((waiting - shares).abs() < tolerance(), "{shares} {report}");
    assert!(report.stacks().iter().any(|stack| stack.doing == Doing::Blocked("recvfrom".to_owned())));
}

#[tokio::main(flavor = "current_thread")]
async fn on_tokio<F: Future>(future: F) -> F::Output {
    future.await
}

async fn fetch() {
    tokio::time::sleep(Duration::from_millis(7)).await;
}

#[test]
fn a_future_shows_where_it_computes_and_where_it_waits() {
    let request = async {
        let began = Instant::now();
        while began.elapsed().as_secs_f64() < seconds() {
            parse(Duration::from_millis(3));
            fetch().await;
        }
    };
    let profile = Profile::new().frequency(997);
    let ((), report) = on_tokio(tokio_future(profile.run_future(request)));
    println!("{report}");
    println!("{}", report.folded());
    assert_sums(&report);
    let waiting = 100.0 * report.waiting().as_secs_f64() / report.elapsed().as_secs_f64();
    assert!((waiting - 72.0).abs() < tolerance(), "{report}");
}

fn tokio_future<F: Future>(future: F) -> impl Future<Output = F::Output> {
    future
}
