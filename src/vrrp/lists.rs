//! Routers whose list of addresses is not ours.
//!
//! keepalived before 2.3 throws away an advert whose list is not its own, hears nobody, and claims beside the MASTER. A list
//! is edited on one router after the other, so for a while they differ. A MASTER here sends its advert a second time then,
//! with the list of the others: the one that an edit of ours has left behind, or the one that a router outside the mesh claims
//! with. Nothing but that comparison reads the list of an advert (RFC 9568 section 7.1), so no address moves for it.

use hamesh_fencing::clock::Moment;
use std::net::IpAddr;
use std::time::Duration;

/// Whoever edits one router edits the others within a day. One that is not has to claim once more, and is told again.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);

/// What a virtual router knows of lists other than its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lists {
    /// The last one, and since when. Who has it falls silent when it hears us, so it is kept though nobody says it again.
    other: Option<(Moment, Vec<IpAddr>)>,
}

impl Lists {
    /// Our own list was `before` and is `now`: routers that are not edited yet have the one of before.
    pub fn edited(&mut self, at: Moment, before: &[IpAddr], now: &[IpAddr]) {
        if !same(before, now) {
            self.other = Some((at, before.to_vec()));
        }
    }

    /// A router that is obeyed, and is no member, claims with the list `theirs`; ours is `ours`.
    pub fn heard(&mut self, at: Moment, ours: &[IpAddr], theirs: &[IpAddr]) {
        if !same(ours, theirs) {
            self.other = Some((at, theirs.to_vec()));
        }
    }

    /// The list that an advert is to be sent with too.
    pub fn other(&self, now: Moment) -> Option<&[IpAddr]> {
        self.other.as_ref().filter(|(since, _)| now.since(*since) < REMEMBERED).map(|(_, list)| &list[..])
    }
}

/// Whether two lists have the same addresses, in whatever order.
pub fn same(one: &[IpAddr], other: &[IpAddr]) -> bool {
    let sorted = |list: &[IpAddr]| {
        let mut list = list.to_vec();
        list.sort_unstable();
        list
    };
    one.len() == other.len() && sorted(one) == sorted(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Moment = Moment::at(Duration::from_secs(9), Duration::from_secs(9));

    fn list(last: &[u8]) -> Vec<IpAddr> {
        last.iter().map(|last| IpAddr::from([203, 0, 113, *last])).collect()
    }

    #[test]
    fn the_order_of_a_list_is_no_difference() {
        let mut lists = Lists::default();
        lists.edited(AT, &list(&[1, 2]), &list(&[2, 1]));
        lists.heard(AT, &list(&[1, 2]), &list(&[2, 1]));
        assert_eq!(lists.other(AT), None);
    }

    #[test]
    fn whoever_is_edited_first_the_others_hear_their_own_list() {
        let (old, new) = (list(&[1]), list(&[1, 2]));
        let mut first = Lists::default();
        first.edited(AT, &old, &new);
        assert_eq!(first.other(AT), Some(&old[..]));
        first.heard(AT, &new, &new);
        assert_eq!(first.other(AT), Some(&old[..]), "one that is edited says nothing of those that are not");
        let mut last = Lists::default();
        last.heard(AT, &old, &new);
        assert_eq!(last.other(AT), Some(&new[..]));
        last.edited(AT, &old, &new);
        assert_eq!(last.other(AT), Some(&old[..]), "its own list is the new one now");
        assert_eq!(last.other(AT + REMEMBERED), None);
    }
}
