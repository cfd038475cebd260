use super::cancellation_token::CancellationToken;

impl CancellationToken {
    /// A guard that cancels the token when dropped.
    pub fn drop_guard(self) -> DropGuard {
        DropGuard { token: self, is_armed: true }
    }

    /// A guard that borrows the token, and cancels it when dropped.
    pub fn drop_guard_ref(&self) -> DropGuardRef<'_> {
        DropGuardRef { token: self }
    }
}

/// Cancels its token when dropped. Made by [`CancellationToken::drop_guard`].
#[must_use = "the token is cancelled when the guard is dropped"]
#[derive(Debug)]
pub struct DropGuard {
    token: CancellationToken,
    is_armed: bool,
}

impl DropGuard {
    /// The token that the guard cancels.
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

/// Borrows a token, and cancels it when dropped. Made by [`CancellationToken::drop_guard_ref`].
#[must_use = "the token is cancelled when the guard is dropped"]
#[derive(Debug)]
pub struct DropGuardRef<'a> {
    token: &'a CancellationToken,
}

impl<'a> DropGuardRef<'a> {
    /// The token that the guard cancels.
    pub fn token(&self) -> &CancellationToken {
        self.token
    }

    /// Gives the token back, and cancels nothing.
    pub fn disarm(self) -> &'a CancellationToken {
        // The guard is not dropped, since its drop would cancel the token. Nothing is leaked, since the guard only
        // borrows.
        std::mem::ManuallyDrop::new(self).token
    }
}

impl Drop for DropGuardRef<'_> {
    fn drop(&mut self) {
        self.token.cancel();
    }
}
