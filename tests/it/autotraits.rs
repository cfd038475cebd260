//! Which types may be shared, sent, moved while pinned, and carried over a caught panic. Checked by compiling.

use std::cell::Cell;
use std::future::Ready;
use std::marker::PhantomPinned;
use std::panic::{RefUnwindSafe, UnwindSafe};

use timebox::{
    CancellationToken, Cause, Deadline, DropGuard, Handle, Hook, Limit, Outcome, Quota, Registration, Scope,
    ScopeId, ScopeInfo, Timebox, TimeoutError, future,
};

/// `yes!(Type: Trait ...)`: it has them all.
macro_rules! yes {
    ($($type:ty: $($bound:ident)+;)+) => { $({
        fn check<T: ?Sized $(+ $bound)+>() {}
        check::<$type>();
    })+ };
}

/// `no!(Type: Trait ...)`: it has none of them. Were one there, the two impls would be ambiguous.
macro_rules! no {
    ($($type:ty: $($bound:ident)+;)+) => { $($({
        trait Ambiguous<Which> {
            fn check() {}
        }
        impl<T: ?Sized> Ambiguous<()> for T {}
        struct Has;
        impl<T: ?Sized + $bound> Ambiguous<Has> for T {}
        <$type as Ambiguous<_>>::check();
    })+)+ };
}

#[test]
fn values_go_anywhere() {
    yes! {
        TimeoutError: Send Sync Unpin UnwindSafe RefUnwindSafe Clone;
        ScopeInfo: Send Sync Unpin UnwindSafe RefUnwindSafe Clone;
        ScopeId: Send Sync Unpin UnwindSafe RefUnwindSafe Copy;
        Cause: Send Sync Unpin UnwindSafe RefUnwindSafe Copy;
        Deadline: Send Sync Unpin UnwindSafe RefUnwindSafe Copy Ord;
        Limit: Send Sync Unpin UnwindSafe RefUnwindSafe Clone;
        timebox::HookFailure: Send Sync Unpin UnwindSafe RefUnwindSafe;
        Outcome<u32>: Send Sync Unpin UnwindSafe RefUnwindSafe;
        Timebox: Send Sync Unpin UnwindSafe RefUnwindSafe Clone;
    }
}

#[test]
fn handles_of_shared_state_go_anywhere() {
    yes! {
        CancellationToken: Send Sync Unpin UnwindSafe RefUnwindSafe Clone;
        DropGuard: Send Sync Unpin UnwindSafe RefUnwindSafe;
        Handle: Send Sync Unpin UnwindSafe RefUnwindSafe Clone;
        Quota: Send Sync Unpin UnwindSafe RefUnwindSafe Clone;
        Registration: Send Sync Unpin UnwindSafe RefUnwindSafe;
        Hook<'static>: Send Unpin;
        Hook<'_>: Send Unpin;
    }
}

#[test]
fn a_scope_stays_on_its_thread() {
    no! {
        Scope: Send Sync Clone;
        &'static Scope: Send;
    }
}

#[test]
fn a_bounded_future_is_what_its_future_is() {
    yes! {
        future::Timeout<Ready<Result<(), TimeoutError>>>: Send Sync Unpin;
        future::TimeoutValue<Ready<()>>: Send Sync Unpin;
        future::Interruptible<Ready<Result<(), String>>>: Send Unpin;
        future::Shield<Ready<()>>: Send Sync Unpin;
        future::PollScope: Send Sync Unpin;
        future::ScopeTemplate: Send Sync Unpin;
        future::Sleep: Send Sync Unpin;
    }
    no! {
        future::TimeoutValue<Ready<Cell<u8>>>: Sync;
        future::TimeoutValue<Ready<*const u8>>: Send Sync;
        future::TimeoutValue<Pinned>: Unpin;
        future::Shield<Pinned>: Unpin;
    }
}

/// A future that must not be moved once polled.
struct Pinned(PhantomPinned);

impl Future for Pinned {
    type Output = ();

    fn poll(self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>) -> std::task::Poll<()> {
        let Self(PhantomPinned) = *self;
        std::task::Poll::Ready(())
    }
}
