//! Random async programs, of all that this crate can be awaited for. Each ends when its time is up, whatever it
//! ignores, and none holds the thread that polls it.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use timebox::{Hook, Timebox, TimeoutError, checkpoint, future, handle};
use tokio::runtime::Runtime;

use crate::runtimes::one_thread;
use crate::support::bounded;

const PROGRAMS: u64 = if cfg!(miri) { 10 } else { 10_000 };
/// So many run at one time.
const BATCH: u64 = if cfg!(miri) { 5 } else { 100 };

/// The unit of the programs' durations. The clock of miri goes on by 5 us with each block of code.
const MS: Duration = Duration::from_millis(if cfg!(miri) { 20 } else { 1 });

/// How late a program may be, and how late what runs beside it.
const LATE: Duration = Duration::from_millis(if cfg!(miri) { 20_000 } else { 100 });
const BESIDE: Duration = Duration::from_millis(if cfg!(miri) { 10_000 } else { 50 });

#[derive(Debug)]
enum Step {
    Sleep(Duration),
    Yield,
    Checkpoint,
    /// A call that ends when its hook fires, or one that never does.
    Interruptible {
        answers: bool,
    },
    /// A scope of its own.
    Limited {
        limit: Duration,
        grace: Duration,
        body: Vec<Step>,
    },
    /// In a task of its own.
    Entered {
        grace: Duration,
        body: Vec<Step>,
    },
    Wait {
        limit: Duration,
        body: Vec<Step>,
    },
    Shield {
        max: Duration,
        body: Vec<Step>,
    },
    Both(Vec<Step>, Vec<Step>),
    /// For ever, whatever comes of it.
    Loop(Vec<Step>),
    /// The executor is late.
    Hold(Duration),
}

/// What a seed makes: the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn up_to(&mut self, most: u64) -> Duration {
        MS * u32::try_from(self.below(most + 1)).unwrap()
    }

    fn steps(&mut self, depth: u32) -> Vec<Step> {
        (0..=self.below(3)).map(|_| self.step(depth)).collect()
    }

    fn step(&mut self, depth: u32) -> Step {
        match self.below(if depth == 0 { 5 } else { 12 }) {
            0 | 1 => Step::Sleep(self.up_to(8)),
            2 => Step::Yield,
            3 => Step::Checkpoint,
            4 => Step::Interruptible { answers: self.below(2) == 0 },
            5 => Step::Limited { limit: self.up_to(10), grace: self.up_to(3), body: self.steps(depth - 1) },
            6 => Step::Entered { grace: self.up_to(3), body: self.steps(depth - 1) },
            7 => Step::Wait { limit: self.up_to(5), body: self.steps(depth - 1) },
            8 => Step::Shield { max: self.up_to(3), body: self.steps(depth - 1) },
            9 => Step::Both(self.steps(depth - 1), self.steps(depth - 1)),
            10 => {
                let mut body = self.steps(depth - 1);
                // Something in it takes time, or lets others run.
                body.push(Step::Sleep(self.up_to(2)));
                Step::Loop(body)
            }
            _ if self.below(60) == 0 => Step::Hold(MS * 6),
            _ => Step::Sleep(MS),
        }
    }
}

/// Errors are looked at, and ignored.
fn ignore<T>(result: Result<T, TimeoutError>) {
    if let Err(error) = result {
        assert!(error.is_timeout(), "nobody has cancelled anything: {error:?}");
    }
}

fn run(steps: &[Step]) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
    Box::pin(async move {
        for step in steps {
            match step {
                Step::Sleep(duration) => ignore(future::sleep(*duration).await),
                Step::Yield => ignore(future::sleep(Duration::ZERO).await),
                Step::Checkpoint => ignore(checkpoint()),
                Step::Interruptible { answers } => {
                    let (tell, told) = tokio::sync::oneshot::channel();
                    let mut tell = Some(tell).filter(|_| *answers);
                    let hook = Hook::new(move || {
                        let _ = tell.take().map(|tell| tell.send(()));
                    });
                    let call = async {
                        if *answers {
                            let _ = told.await;
                        } else {
                            pending::<()>().await;
                        }
                        Err::<(), _>("told")
                    };
                    ignore(future::interruptible(hook, call).await.map(drop));
                }
                Step::Limited { limit, grace, body } => {
                    ignore(Timebox::new(*limit).grace(*grace).run_future_value(run(body)).await);
                }
                Step::Entered { grace, body } => {
                    // What is spawned borrows nothing: this stands for the same text.
                    let body = format!("{body:?}").len() as u64;
                    let entered = Timebox::new(None::<Duration>).grace(*grace).within(&handle());
                    let task = tokio::spawn(entered.run_future_value(async move {
                        let body = Random(body | 1).steps(1);
                        run(&body).await;
                    }));
                    ignore(task.await.unwrap());
                }
                Step::Wait { limit, body } => {
                    let mut body = run(body);
                    for _ in 0..3 {
                        let result = future::wait(*limit, &mut body).await;
                        let is_done = result.is_ok();
                        ignore(result);
                        if is_done {
                            break;
                        }
                    }
                }
                Step::Shield { max, body } => future::shield(*max, run(body)).await,
                Step::Both(one, other) => {
                    tokio::join!(run(one), run(other));
                }
                Step::Loop(body) => loop {
                    run(body).await;
                },
                Step::Hold(duration) => thread::sleep(*duration),
            }
        }
    })
}

/// The longest that something regular was late: of the runtime, and of a thread that has nothing to do with it, which
/// tells how busy the machine is.
#[derive(Default)]
struct Lateness(AtomicU64);

impl Lateness {
    fn note(&self, since: Instant, due: Duration) {
        let late = u64::try_from(since.elapsed().saturating_sub(due).as_micros()).unwrap();
        self.0.fetch_max(late, SeqCst);
    }

    /// Since it was asked last.
    fn most(&self) -> Duration {
        Duration::from_micros(self.0.swap(0, SeqCst))
    }
}

/// The name of the threads of a runtime.
const WORKER: &str = "programs";

/// For how long each thread that a program depends on has waited for a processor so far, where the system tells.
fn waits() -> HashMap<OsString, Duration> {
    if cfg!(miri) {
        return HashMap::new();
    }
    let this = fs::read_link("/proc/thread-self").unwrap_or_default();
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let of = |task: fs::DirEntry| {
        let read = |file| fs::read_to_string(task.path().join(file)).ok();
        let (number, name) = (task.file_name(), read("comm")?);
        let counts =
            Some(&*number) == this.file_name() || name.starts_with(WORKER) || name.starts_with("timebox");
        let waited = read("schedstat")?.split(' ').nth(1)?.parse().ok()?;
        counts.then(|| (number, Duration::from_nanos(waited)))
    };
    tasks.filter_map(of).collect()
}

/// For how long they have waited since it was called last, together.
fn waited_since(before: &mut HashMap<OsString, Duration>) -> Duration {
    let now = waits();
    let since = |(number, waited): (&OsString, &Duration)| {
        waited.saturating_sub(before.get(number).copied().unwrap_or_default())
    };
    let waited = now.iter().map(since).sum();
    *before = now;
    waited
}

fn programs_end(runtime: &Runtime) {
    let done = Arc::new(AtomicBool::new(false));
    let (machine, beside) = (Arc::new(Lateness::default()), Arc::new(Lateness::default()));
    let control = thread::spawn({
        let (machine, done) = (Arc::clone(&machine), Arc::clone(&done));
        move || {
            while !done.load(SeqCst) {
                let since = Instant::now();
                thread::sleep(MS);
                machine.note(since, MS);
            }
        }
    });
    let heartbeat = runtime.spawn({
        let (beside, done) = (Arc::clone(&beside), Arc::clone(&done));
        async move {
            while !done.load(SeqCst) {
                let since = Instant::now();
                tokio::time::sleep(MS).await;
                beside.note(since, MS);
            }
        }
    });
    let (mut worst, mut worst_beside) = ((Duration::ZERO, String::new()), Duration::ZERO);
    let mut before = waits();
    // In the batch before: where a beat of what runs beside them may have begun.
    let mut waited_before = Duration::ZERO;
    for batch in 0..PROGRAMS.div_ceil(BATCH) {
        let latest = Arc::new(Mutex::new((Duration::ZERO, String::new())));
        let tasks = (0..BATCH).map(|n| {
            let latest = Arc::clone(&latest);
            runtime.spawn(async move {
                let mut random = Random(0x9E37_79B9_7F4A_7C15 ^ (batch * BATCH + n + 1));
                (0..8).for_each(|_| {
                    random.below(2);
                });
                let (limit, grace) = (random.up_to(12), random.up_to(5));
                let program = random.steps(3);
                let since = Instant::now();
                let result = Timebox::new(limit).grace(grace).run_future_value(run(&program)).await;
                // Shields hold a scope up for so long.
                let late = since.elapsed().saturating_sub(limit + grace + MS * 3);
                ignore(result);
                let mut latest = latest.lock().unwrap();
                if late > latest.0 {
                    *latest = (late, format!("{limit:?}, grace {grace:?}: {program:?}"));
                }
            })
        });
        let tasks: Vec<_> = tasks.collect();
        runtime.block_on(async {
            for task in tasks {
                task.await.unwrap();
            }
        });
        // On a busy machine they wait for their turn.
        let waited = waited_since(&mut before);
        let (late, program) = std::mem::take(&mut *latest.lock().unwrap());
        let late = late.saturating_sub(waited);
        if late > worst.0 {
            worst = (late, program);
        }
        worst_beside = worst_beside.max(beside.most().saturating_sub(waited + waited_before));
        waited_before = waited;
    }
    done.store(true, SeqCst);
    control.join().unwrap();
    runtime.block_on(heartbeat).unwrap();
    let (late, program) = worst;
    // Where the system does not tell: a thread that has much to do waits longer for its turn than one that only sleeps.
    let busy = machine.most() * 10;
    assert!(late <= LATE + busy, "{late:?} late, the machine {busy:?}: {program}");
    assert!(
        worst_beside <= BESIDE + busy,
        "what ran beside them was {worst_beside:?} late, the machine {busy:?}"
    );
}

#[test]
fn on_one_thread_every_program_ends_in_time() {
    bounded(|| programs_end(&one_thread().enable_time().build().unwrap()));
}

#[test]
fn on_two_threads_every_program_ends_in_time() {
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name(WORKER)
            .enable_time()
            .build()
    };
    bounded(move || programs_end(&runtime().unwrap()));
}
