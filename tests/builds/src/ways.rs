//! The ways to block. Each has a thread, and three functions of its own on the thread's stack.

use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::future::pending;
use std::hint::black_box;
use std::io::{Read, pipe};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::ptr::null_mut;
use std::sync::{Condvar, LazyLock, Mutex, RwLock, mpsc};
use std::thread;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);

type Outer = fn() -> u32;

static RAYON: LazyLock<rayon::ThreadPool> = LazyLock::new(|| {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).thread_name(|_| "rayon".into());
    pool.build().unwrap()
});

static TOKIO: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(4).thread_name("tokio").enable_all().build().unwrap()
});

/// Each thread that has come to its innermost function: its number, and the name of the way.
pub(crate) static BEGUN: Mutex<Vec<(u32, &str)>> = Mutex::new(Vec::new());

fn begin(way: &'static str) {
    // SAFETY: the call has no conditions.
    let thread = unsafe { libc::gettid() };
    BEGUN.lock().unwrap().push((thread.cast_unsigned(), way));
}

/// Each way has a name, the function that brings it on a thread, and the code that blocks. The results are used, so that
/// no call is a tail call.
macro_rules! ways {
    ($($way:ident, $start:ident, $block:expr;)*) => {
        $(pub(crate) mod $way {
            use super::*;

            #[inline(never)]
            pub(crate) fn outer() -> u32 {
                black_box(middle()) + 1
            }

            #[inline(never)]
            fn middle() -> u32 {
                black_box(inner()) + 1
            }

            #[inline(never)]
            fn inner() -> u32 {
                begin(stringify!($way));
                let _kept = $block;
                black_box(1)
            }
        })*

        pub(crate) const NAMES: &[&str] = &[$(stringify!($way)),*];

        /// Starts all threads but the main one, which calls `main_thread::outer`.
        pub(crate) fn start() {
            $($start($way::outer);)*
        }
    };
}

// On Linux, a thread that takes a lock which it holds already is blocked for ever.
ways! {
    main_thread, on_main, thread::spawn(crate::check::check).join();

    std_park, on_thread, thread::park();
    std_sleep, on_thread, thread::sleep(HOUR);
    std_join, on_thread, thread::spawn(|| thread::sleep(HOUR)).join();
    std_mutex, on_thread, { let lock = Mutex::new(()); let _held = lock.lock(); drop(lock.lock()) };
    std_rwlock, on_thread, { let lock = RwLock::new(()); let _held = lock.write(); drop(lock.read()) };
    std_condvar, on_thread, { let lock = Mutex::new(()); drop(Condvar::new().wait(lock.lock().unwrap())) };
    std_receive, on_thread, { let (_sender, receiver) = mpsc::channel::<()>(); receiver.recv() };
    std_send, on_thread, { let (sender, _receiver) = mpsc::sync_channel(0); sender.send(()) };
    std_read, on_thread, { let (mut reader, _writer) = pipe().unwrap(); reader.read(&mut [0]) };
    std_accept, on_thread, TcpListener::bind("127.0.0.1:0").unwrap().accept();
    thread_exit, at_exit, thread::sleep(HOUR);

    parking_lot_mutex, on_thread, {
        let lock = parking_lot::Mutex::new(());
        let _held = lock.lock();
        drop(lock.lock());
    };
    parking_lot_condvar, on_thread, parking_lot::Condvar::new().wait(&mut parking_lot::Mutex::new(()).lock());

    crossbeam_receive, on_thread, { let (_sender, receiver) = crossbeam_channel::unbounded::<()>(); receiver.recv() };
    crossbeam_send, on_thread, { let (sender, _receiver) = crossbeam_channel::bounded(0); sender.send(()) };
    crossbeam_select, on_thread, {
        let ((_sender, receiver), never) = (crossbeam_channel::unbounded::<()>(), crossbeam_channel::never::<()>());
        crossbeam_channel::select! { recv(receiver) -> _ => (), recv(never) -> _ => () }
    };

    rayon_worker, on_rayon, thread::sleep(HOUR);
    rayon_install, on_thread, RAYON.install(|| thread::sleep(HOUR));

    tokio_worker, on_tokio, thread::sleep(HOUR);
    tokio_block_in_place, on_tokio, tokio::task::block_in_place(|| thread::sleep(HOUR));
    tokio_spawn_blocking, on_tokio_blocking, thread::park();
    tokio_block_on, on_thread, {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(pending::<()>());
    };
    tokio_block_on_shared, on_thread, TOKIO.block_on(pending::<()>());

    // SAFETY: the call has no conditions.
    c_pause, on_thread, unsafe { libc::pause() };
    // SAFETY: it is given no descriptors, so it reads no memory.
    c_poll, on_thread, unsafe { libc::poll(null_mut(), 0, -1) };
    c_sem_wait, on_thread, sem_wait();
    c_qsort, on_thread, qsort();
}

fn sem_wait() {
    let mut semaphore = MaybeUninit::uninit();
    // SAFETY: the first call makes the semaphore, which does not move.
    _ = unsafe { libc::sem_init(semaphore.as_mut_ptr(), 0, 0) + libc::sem_wait(semaphore.as_mut_ptr()) };
}

fn qsort() {
    extern "C" fn compare(_: *const c_void, _: *const c_void) -> c_int {
        thread::sleep(HOUR);
        black_box(0)
    }
    let mut numbers = [3_u64, 1, 2];
    // SAFETY: the sizes are those of the array.
    unsafe { libc::qsort(numbers.as_mut_ptr().cast(), numbers.len(), size_of::<u64>(), Some(compare)) };
}

fn on_main(_: Outer) {}

fn on_thread(outer: Outer) {
    thread::spawn(outer);
}

/// In the destructor of a thread-local value.
fn at_exit(outer: Outer) {
    struct Last(Outer);
    impl Drop for Last {
        fn drop(&mut self) {
            black_box(self.0());
        }
    }
    thread_local!(static LAST: RefCell<Option<Last>> = const { RefCell::new(None) });
    thread::spawn(move || LAST.set(Some(Last(outer))));
}

fn on_rayon(outer: Outer) {
    RAYON.spawn(move || _ = black_box(outer()));
}

fn on_tokio(outer: Outer) {
    TOKIO.spawn(async move { outer() });
}

fn on_tokio_blocking(outer: Outer) {
    TOKIO.spawn_blocking(outer);
}
