//! Claims that wait until their services are in IPVS. What they wait for is put in first, in the order in which they came.

use crate::health::Wanted;
use crate::ipvs::{Change, ServiceKey, Table};
use hamesh_raft::command::GroupName;
use std::collections::{BTreeMap, VecDeque};
use tokio::sync::oneshot;

/// All that wait.
#[derive(Default)]
pub(super) struct Claims(VecDeque<(GroupName, oneshot::Sender<()>)>);

impl Claims {
    pub(super) fn add(&mut self, group: GroupName, done: oneshot::Sender<()>) {
        self.0.push_back((group, done));
    }

    /// The changes that make the table `target`, sorted: what goes, what the claims wait for, the rest. And how many are made
    /// when each claim has what it waits for.
    pub(super) fn sort(
        &self,
        changes: Vec<Change>,
        wanted: Option<&Wanted>,
        target: &Table,
    ) -> (Vec<Change>, VecDeque<usize>) {
        if self.0.is_empty() {
            return (changes, VecDeque::new());
        }
        let mut turns = BTreeMap::<ServiceKey, usize>::new();
        for (turn, (group, _)) in self.0.iter().enumerate() {
            for key in wanted.and_then(|wanted| wanted.get(group)).into_iter().flat_map(Table::keys) {
                turns.entry(*key).or_insert(turn + 1);
            }
        }
        let turn = |change: &Change| {
            let key = change.key();
            if target.contains_key(key) { turns.get(key).copied().unwrap_or(usize::MAX) } else { 0 }
        };
        let mut changes: Vec<(usize, Change)> = changes.into_iter().map(|change| (turn(&change), change)).collect();
        changes.sort_by_key(|(turn, _)| *turn);
        let needs = (1..=self.0.len()).map(|last| changes.partition_point(|(turn, _)| *turn <= last)).collect();
        (changes.into_iter().map(|(_, change)| change).collect(), needs)
    }

    /// Answers those that have what they wait for, now that so many changes are made.
    pub(super) fn answer(&mut self, made: usize, needs: &mut VecDeque<usize>) {
        while needs.front().is_some_and(|needs| *needs <= made) {
            needs.pop_front();
            if let Some((_, done)) = self.0.pop_front() {
                done.send(()).ok();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipvs::{Endpoint, Forwarding, Protocol, Server, Service, Settings, plan};

    fn key(last: u8, port: u16) -> ServiceKey {
        ServiceKey::Address(Protocol::Tcp, Endpoint { ip: [203, 0, 113, last].into(), port })
    }

    /// The service of an address, with so many servers.
    fn table(last: u8, servers: u8) -> Table {
        let at = |n| Endpoint { ip: [10, 0, 5, n].into(), port: 80 };
        let servers = (1..=servers).map(|n| (at(n), Server::new(Forwarding::Nat, 1))).collect();
        [(key(last, 80), Service { settings: Settings::new("rr"), servers })].into()
    }

    #[test]
    fn what_a_claim_waits_for_comes_first_and_what_goes_before_that() {
        let wanted = Wanted::from([
            ("held".to_owned(), table(1, 9)),
            ("second".to_owned(), table(2, 3)),
            ("first".to_owned(), table(3, 5)),
            ("bare".to_owned(), Table::new()),
        ]);
        let present = Table::from([(key(9, 80), table(9, 1)[&key(9, 80)].clone())]);
        let target: Table = wanted.values().flatten().map(|(key, service)| (*key, service.clone())).collect();
        let mut claims = Claims::default();
        let mut waiting: Vec<_> = ["first", "second", "bare"]
            .map(|group| {
                let (done, served) = oneshot::channel();
                claims.add(group.to_owned(), done);
                served
            })
            .into();
        let (changes, mut needs) = claims.sort(plan(&present, &target), Some(&wanted), &target);
        assert_eq!(changes[0], Change::RemoveService(key(9, 80)));
        assert_eq!(needs, [7, 11, 11], "a service and its servers each; one without services waits for its turn");
        let mut present = present;
        for change in &changes[..needs[0]] {
            change.make(&mut present);
        }
        assert_eq!(present, table(3, 5), "the first has all it waits for");
        claims.answer(6, &mut needs);
        assert!(waiting[0].try_recv().is_err());
        claims.answer(8, &mut needs);
        assert!(waiting[0].try_recv().is_ok() && waiting[1].try_recv().is_err());
        claims.answer(changes.len(), &mut needs);
        assert!(waiting[1..].iter_mut().all(|served| served.try_recv().is_ok()));
        assert_eq!(Claims::default().sort(changes.clone(), None, &target), (changes, VecDeque::new()));
    }
}
