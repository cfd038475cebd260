use std::fmt;

#[derive(Clone, Copy, Debug)]
pub(super) enum Problem {
    Repeated,
    TooLong { most: usize },
    NotGrpc,
    NotMilliseconds,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Repeated => f.write_str("sent more than once"),
            Self::TooLong { most } => write!(f, "longer than {most} characters"),
            Self::NotGrpc => f.write_str("expected one to eight digits and a unit (H, M, S, m, u or n)"),
            Self::NotMilliseconds => f.write_str("expected milliseconds in digits"),
        }
    }
}
