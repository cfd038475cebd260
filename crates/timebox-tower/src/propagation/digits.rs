/// The number that the digits stand for. `None` if there are none, if a byte is no digit, or if the number does not fit
/// into a `u64`. Unlike `u64::from_str` this reads no sign.
pub(super) fn parse_digits(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| digit - b'0')?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}
