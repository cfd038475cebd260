//! Runs a body under a probe, which sees each interruption point and can make a scope expire there.

use std::panic::Location;
use std::sync::Arc;

use crate::error::TimeoutError;
use crate::future::TimeoutValue;
use crate::scope::innermost;
use crate::scope::{Extras, Scope, Timebox, run_any, test_hooks};
use crate::sync::{AtomicU64, Mutex, Ordering, lock};
use crate::test_env::{Probe, TestEnv, Verdict};
use crate::thread::Thread;
use crate::time::Limit;

type Place = &'static Location<'static>;

#[derive(Clone, Debug)]
pub(super) enum Where {
    Nowhere,
    /// At the interruption point with this number, counted from 1.
    At {
        number: usize,
        in_shields: bool,
    },
    /// Each scope with this label expires at the first point inside it.
    In(Arc<str>),
}

/// Counts the interruption points of a body, and injects an expiry.
pub(super) struct Injector {
    place: Where,
    /// The id of the scope that `inject` opens around the body; 0 before that scope is open.
    own: AtomicU64,
    seen: Mutex<Vec<Place>>,
}

impl Injector {
    pub(super) fn new(place: Where) -> Arc<Self> {
        Arc::new(Self { place, own: AtomicU64::new(0), seen: Mutex::new(Vec::new()) })
    }

    pub(super) fn seen(&self) -> Vec<Place> {
        lock(&self.seen).clone()
    }

    /// Called as soon as the scope around the body is open. Points are counted from then on.
    fn begin(&self, scope: &Scope) {
        // Relaxed: another thread reads `own` only after it has got a handle or a future from the body. Getting it
        // synchronizes the two threads, so the other thread sees this store.
        self.own.store(scope.node().id.get(), Ordering::Relaxed);
    }
}

impl Probe for Injector {
    fn reached(&self, location: Place) -> Verdict {
        let outermost = self.own.load(Ordering::Relaxed);
        if outermost == 0 {
            return Verdict::Pass;
        }
        let mut seen = lock(&self.seen);
        seen.push(location);
        match &self.place {
            Where::At { number, in_shields } if *number == seen.len() => {
                Verdict::Expire { outermost, in_shields: *in_shields }
            }
            Where::In(label) => Verdict::ExpireLabelled(Arc::clone(label)),
            _ => Verdict::Pass,
        }
    }

    fn waits(&self, _location: Place, _begins: bool) {}

    fn injects(&self) -> bool {
        true
    }
}

fn with_probe(probe: Arc<dyn Probe>) -> TestEnv {
    let mut setup = TestEnv::current().setup().cloned().unwrap_or_default();
    setup.probe = Some(probe);
    TestEnv::of(setup)
}

pub(super) fn run<R>(
    probe: Arc<dyn Probe>,
    location: Place,
    body: impl FnOnce(&Scope) -> R,
) -> Result<R, TimeoutError> {
    let env = with_probe(probe);
    Thread::with(|thread| {
        let _under = test_hooks::enter_env(thread, &env);
        run_any(&Limit::NONE, Some(&Extras::default()), location, body)
    })
}

/// The panic message for a body that ended with this error, and so has no value.
pub(super) fn cut_off(error: &TimeoutError) -> String {
    if error.started() {
        format!("unwound where no scope was open to stop it: {error}")
    } else {
        format!("the body was not run: {error}")
    }
}

#[track_caller]
pub(super) fn returned<R>(result: Result<R, TimeoutError>) -> R {
    result.unwrap_or_else(|error| panic!("{}", cut_off(&error)))
}

pub(super) fn inject<R>(
    injector: &Arc<Injector>,
    location: Place,
    body: impl FnOnce() -> R,
) -> Result<R, TimeoutError> {
    run(Arc::clone(injector) as Arc<dyn Probe>, location, |scope| {
        injector.begin(scope);
        body()
    })
}

pub(super) fn inject_future<F: Future>(
    injector: &Arc<Injector>,
    location: Place,
    future: F,
) -> TimeoutValue<impl Future<Output = F::Output> + use<F>> {
    let injector = Arc::clone(injector);
    let env = with_probe(Arc::clone(&injector) as Arc<dyn Probe>);
    let _entered = env.enter();
    Timebox::new(Limit::NONE).run_future_value_at(location, async move {
        Thread::with(|thread| {
            innermost(thread, |scope| scope.into_iter().for_each(|scope| injector.begin(scope)));
        });
        future.await
    })
}
