//! What tokio-util's token does, ours does: the same code runs against both. Only the `use` lines differ.

#[path = "."]
mod ours {
    use timebox::{CancellationToken, Cancelled as WaitForCancellationFuture, DropGuard, DropGuardRef};

    #[path = "scenarios.rs"]
    mod scenarios;
}

#[path = "."]
mod theirs {
    use tokio_util::sync::{CancellationToken, DropGuard, DropGuardRef, WaitForCancellationFuture};

    #[path = "scenarios.rs"]
    #[allow(clippy::duplicate_mod, reason = "that is the point")]
    mod scenarios;
}
