//! What a plan would move, before it is carried out.

use std::collections::BTreeMap;

use super::{BackendId, Operation, Plan, ServiceId, Snapshot, tables::Places};

/// What a plan moves of a service.
#[derive(Clone, Debug, PartialEq)]
pub struct Movement {
    /// The service.
    pub service: ServiceId,
    /// Share of all clients' hashes whose slot names another backend, 0 to 1.
    pub slots: f64,
}

/// The services in force of which a plan of [`super::plan`] moves slots.
#[must_use]
pub fn movements(plan: &Plan, snapshot: &Snapshot) -> Vec<Movement> {
    let written: BTreeMap<u32, &[BackendId]> = plan
        .operations
        .iter()
        .filter_map(|operation| match operation {
            Operation::WriteTable(first, slots) => Some((*first, slots.as_slice())),
            _ => None,
        })
        .collect();
    let bank = plan.operations.iter().find_map(|operation| match operation {
        Operation::WriteBank(bank) => Some(bank),
        _ => None,
    });
    let content = |places: &Places| -> &[BackendId] {
        let first = places.current.first();
        let old = snapshot.tables.get(&first).map(Vec::as_slice);
        let table = written.get(&first).copied().or(old);
        table.filter(|_| places.current.slots() > 0).unwrap_or_default()
    };
    let movement = |(&service, entry)| {
        let before = Places::read(entry);
        let old = snapshot.tables.get(&before.current.first()).map_or(&[][..], Vec::as_slice);
        let after = bank.and_then(|bank| bank.services.get(&service)).map(Places::read);
        let new = after.as_ref().map_or(&[][..], content);
        Movement { service, slots: moved(old, new) }
    };
    let all = snapshot.services.iter().map(movement);
    all.filter(|movement| movement.slots > 0.0).collect()
}

/// Share of the hash space in which two tables, perhaps of different sizes,
/// name different backends. A table divides it into equal parts.
fn moved(old: &[BackendId], new: &[BackendId]) -> f64 {
    match (old.is_empty(), new.is_empty()) {
        (true, true) => return 0.0,
        (true, false) | (false, true) => return 1.0,
        (false, false) => {}
    }
    // In units of 1 / (old.len() * new.len()), so that all borders are whole.
    let (mut at, mut different) = (0u64, 0u64);
    let (of_old, of_new) = (new.len() as u64, old.len() as u64);
    let end = of_old * of_new;
    while at < end {
        let (i, j) = (at / of_old, at / of_new);
        let next = ((i + 1) * of_old).min((j + 1) * of_new);
        if old[i as usize] != new[j as usize] {
            different += next - at;
        }
        at = next;
    }
    different as f64 / end as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_different_sizes_are_compared_by_the_hashes_they_serve() {
        assert_eq!(moved(&[], &[]), 0.0);
        assert_eq!(moved(&[1], &[]), 1.0);
        assert_eq!(moved(&[1, 2], &[1, 1, 2, 2]), 0.0);
        assert_eq!(moved(&[1, 2], &[1, 2, 2, 2]), 0.25);
        assert_eq!(moved(&[1, 2, 3], &[1, 3]), 2.0 / 6.0);
    }
}
