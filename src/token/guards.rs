//! Guards that cancel a token.

use super::handles::CancellationToken;

/// Cancels its token when dropped. Made by [`CancellationToken::drop_guard`].
#[must_use = "the token is cancelled when the guard is dropped"]
#[derive(Debug)]
pub struct DropGuard {
    pub(super) token: CancellationToken,
    pub(super) is_armed: bool,
}

impl DropGuard {
    /// The token that it cancels.
    ///
    /// ```
    /// use timebox::CancellationToken;
    ///
    /// let guard = CancellationToken::new().drop_guard();
    /// let child = guard.token().child_token();
    /// drop(guard);
    /// assert!(child.is_cancelled());
    /// ```
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Gives the token back, and cancels nothing.
    pub fn disarm(mut self) -> CancellationToken {
        self.is_armed = false;
        self.token.clone()
    }
}

impl Drop for DropGuard {
    fn drop(&mut self) {
        if self.is_armed {
            self.token.cancel();
        }
    }
}

/// Cancels the token it borrows when dropped. Made by [`CancellationToken::drop_guard_ref`].
#[must_use = "the token is cancelled when the guard is dropped"]
#[derive(Debug)]
pub struct DropGuardRef<'a> {
    pub(super) token: &'a CancellationToken,
}

impl<'a> DropGuardRef<'a> {
    /// The token that it cancels.
    pub fn token(&self) -> &CancellationToken {
        self.token
    }

    /// Gives the token back, and cancels nothing.
    pub fn disarm(self) -> &'a CancellationToken {
        // There is nothing else to drop.
        std::mem::ManuallyDrop::new(self).token
    }
}

impl Drop for DropGuardRef<'_> {
    fn drop(&mut self) {
        self.token.cancel();
    }
}
