use std::fs;
use std::panic::Location;
use std::ptr;

use crate::scope::ScopeCopy;

/// Where the scope was opened; `None` if that is not known. `is_consistent`: the thread stood still while the scope was
/// copied. If this is `false`, the address may be nonsense. So it is used only if it lies in a mapped file, in memory
/// that cannot be written.
pub(crate) fn location(scope: &ScopeCopy, is_consistent: bool) -> Option<&'static Location<'static>> {
    let address = usize::try_from(scope.location).ok()?;
    let location = ptr::with_exposed_provenance::<Location<'static>>(address);
    if location.is_null() || !location.is_aligned() || !(is_consistent || is_constant(scope.location)) {
        return None;
    }
    // SAFETY: the address comes out of a frame, which holds a reference to a `Location` of the program. The copy of the
    // frame is right. Either the thread stood still while the frame was copied; or two copies of the frame, made one
    // after the other, are the same, and the address is where the compiler puts such values.
    unsafe { location.as_ref() }
}

/// Whether the address is in a mapped file, and the mapping can be read but not written.
fn is_constant(address: u64) -> bool {
    let Ok(maps) = fs::read_to_string("/proc/self/maps") else { return false };
    maps.lines().any(|line| {
        let mut words = line.split_ascii_whitespace();
        let (Some(range), Some(rights), path) = (words.next(), words.next(), words.nth(3)) else {
            return false;
        };
        let Some((from, to)) = range.split_once('-') else { return false };
        let number = |text| u64::from_str_radix(text, 16).unwrap_or(0);
        rights.starts_with("r-") && path.is_some() && (number(from)..number(to)).contains(&address)
    })
}
