//! A task whose executor polls it in `wake`, as some do.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};

pub(crate) struct PolledInWake {
    future: Mutex<Option<Pin<Box<dyn Future<Output = ()> + Send>>>>,
    /// Whether the task was woken since its last poll began.
    woken: AtomicBool,
}

impl PolledInWake {
    /// Polls the future here; from then on, wherever it is woken.
    pub(crate) fn start(future: impl Future<Output = ()> + Send + 'static) {
        let task = Self { future: Mutex::new(Some(Box::pin(future))), woken: AtomicBool::new(false) };
        Arc::new(task).wake();
    }
}

impl Wake for PolledInWake {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, SeqCst);
        while self.woken.load(SeqCst) {
            // Whoever polls it now looks at `woken` afterwards.
            let Ok(mut place) = self.future.try_lock() else { return };
            self.woken.store(false, SeqCst);
            let waker = Waker::from(Arc::clone(&self));
            if let Some(future) = &mut *place
                && future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready()
            {
                *place = None;
            }
        }
    }
}
