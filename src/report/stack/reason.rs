//! Why there is no stack, or what is not certain about it.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    Unsupported,
    Gone,
    NoTaskFiles,
    NoMemory,
    NoSignal,
    HandlerReplaced,
    SignalRefused,
    TooMany,
    NotTaken,
    Unfinished,
    NoRoom,
    Unreadable,
    Inconsistent,
}

impl Reason {
    const ALL: [Self; 13] = [
        Self::Unsupported,
        Self::Gone,
        Self::NoTaskFiles,
        Self::NoMemory,
        Self::NoSignal,
        Self::HandlerReplaced,
        Self::SignalRefused,
        Self::TooMany,
        Self::NotTaken,
        Self::Unfinished,
        Self::NoRoom,
        Self::Unreadable,
        Self::Inconsistent,
    ];

    fn sentence(self) -> &'static str {
        match self {
            Self::Unsupported => "Stacks of other threads are not taken on this system.",
            Self::Gone => "The thread has ended.",
            Self::NoTaskFiles => {
                "The system does not let this process read the state of its threads (/proc/self/task), or shows that of an \
                 emulator, so a blocked thread is interrupted by a signal."
            }
            Self::NoMemory => {
                "There is no stack: the system does not let this process copy its own memory by address (process_vm_readv, \
                 /proc/self/mem)."
            }
            Self::NoSignal => {
                "There is no stack: the thread was running, and the handler of SIGURG could not be installed."
            }
            Self::HandlerReplaced => {
                "There is no stack: the thread was running, and the program has replaced this crate's handler of SIGURG."
            }
            Self::SignalRefused => {
                "There is no stack: the thread was running, and the system does not let this process send a signal to it \
                 (rt_tgsigqueueinfo)."
            }
            Self::TooMany => "There is no stack: too many stacks of running threads were asked for at once.",
            Self::NotTaken => {
                "There is no stack: the thread was running, and did not take the signal in time. It blocks SIGURG, or is \
                 stopped, or got no processor."
            }
            Self::Unfinished => {
                "There is no stack: the thread took the signal, but got no processor to finish the copy."
            }
            Self::NoRoom => {
                "There is no stack: the thread was running, and its alternate stack for signals was nearly full."
            }
            Self::Unreadable => "There is no stack: the memory at the stack pointer could not be read.",
            Self::Inconsistent => {
                "The scopes are not of one moment: they were read twice while the thread was running, and were the same."
            }
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reasons(u16);

impl Reasons {
    pub(super) fn add(&mut self, reason: Reason) {
        self.0 |= 1 << reason as u16;
    }

    pub(crate) fn has(self, reason: Reason) -> bool {
        self.0 & 1 << reason as u16 != 0
    }

    pub(crate) fn sentences(self) -> Vec<String> {
        let reasons = Reason::ALL.iter().filter(|&&reason| self.has(reason));
        reasons.map(|reason| reason.sentence().to_owned()).collect()
    }
}
