use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::contents::{FunctionTime, ProfileStack};

/// The functions of these stacks, those with the most time of their own first.
pub(super) fn functions(stacks: &[ProfileStack]) -> Vec<FunctionTime> {
    let mut functions: HashMap<&str, FunctionTime> = HashMap::new();
    for stack in stacks {
        // A function that calls itself is in the stack several times. Its time counts only once.
        let mut counted = HashSet::new();
        for (depth, frame) in stack.frames.iter().enumerate() {
            let function = functions.entry(&frame.function).or_insert_with(|| FunctionTime {
                function: frame.function.clone(),
                foreign: frame.foreign,
                itself: Duration::ZERO,
                total: Duration::ZERO,
                waiting: Duration::ZERO,
            });
            if depth == 0 {
                function.itself += stack.time;
            }
            if counted.insert(&frame.function) {
                function.total += stack.time;
                if stack.doing.is_waiting() {
                    function.waiting += stack.time;
                }
            }
        }
    }
    let mut functions: Vec<_> = functions.into_values().collect();
    functions.sort_by(|a, b| {
        let order = |function: &FunctionTime| Reverse((function.itself, function.total));
        order(a).cmp(&order(b)).then_with(|| a.function.cmp(&b.function))
    });
    functions
}
