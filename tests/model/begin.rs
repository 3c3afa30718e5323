//! Where a search begins: the first director holds the VIP, promised by all, and all is calm.

use crate::cluster::{Cluster, Director, GROUP, Step, Way, id, membership};
use crate::faults::Faults;
use crate::part::Part;
use crate::voters::Member;
use crate::{LEASE, VOTERS, moment};
use hamesh_fencing::grantor::{self, Grantor};
use hamesh_fencing::holder;
use hamesh_raft::command::{Applicant, ClusterId, Command, InvitationId, Leadership, Lineage, NodeId, Role};
use hamesh_raft::state::State;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// So long it has been calm: nothing waits for a floor of Lg any more.
const CALM: u32 = 8;

impl Cluster {
    /// The beginning, if the minds come to it: the first director is open, and the second is not.
    pub fn begin(faults: Faults) -> Option<Self> {
        let by = Leadership { term: 1, node: id(0) };
        let mut state = State::default();
        let mut index = 0;
        for command in registrations() {
            index += 1;
            state.apply(index, by, &command);
        }
        let mut directors = [0, 1].map(Director::new);
        // Both open a session and stand, and the first is granted the group.
        for _ in 0..3 {
            for director in &mut directors {
                let event = holder::Event::Applied(index, Arc::new(state.clone()), membership());
                for action in director.holder.handle(moment(0), event) {
                    if let holder::Action::Propose(command) = action {
                        index += 1;
                        state.apply(index, by, &command);
                    }
                }
            }
        }
        let sid = *state.sessions.keys().next()?;
        index += 1;
        state.apply(index, by, &Command::Grant { group: GROUP.to_owned(), to: sid });
        state.invitations.clear();
        let newest = state.holder(GROUP).map(|holder| holder.token);
        let state = Arc::new(state);
        let mut cluster = Self {
            tick: 0,
            // None before the beginning.
            faults: Faults::default(),
            members: std::array::from_fn(|at| Part::new(Member::new(at, index, &state))),
            grantors: std::array::from_fn(|_| {
                let mut grantor = Grantor::new(moment(0), LEASE);
                grantor.handle(moment(0), grantor::Event::Applied(state.clone(), membership()));
                Part::new(grantor)
            }),
            directors: directors.map(Part::new),
            leader: 0,
            by,
            committed: 0,
            base: index,
            states: Arc::new(vec![state.clone()]),
            late: BTreeMap::new(),
            ahead: None,
            newest,
            violation: None,
            things: Vec::new(),
        };
        cluster.takes_the_lead();
        for at in [0, 1] {
            cluster.director_applies(at, 0);
        }
        for _ in 0..CALM {
            cluster = cluster.after(Step::Run([Way::Done; VOTERS]));
        }
        cluster.faults = faults;
        let begins = cluster.violation.is_none() && cluster.is_open(0) && !cluster.is_open(1);
        begins.then_some(cluster)
    }
}

/// Two directors; a voter that holds nothing need not be in the state.
fn registrations() -> Vec<Command> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 7112));
    let applicant = |node: u64| Applicant {
        name: format!("lb{node}"),
        role: Role::Director,
        rack: String::new(),
        address,
        key: [0; 32],
    };
    let register = |node: u64| Command::Register { node: NodeId(node), incarnation: 1, rack: String::new(), address };
    let id = InvitationId(2);
    vec![
        Command::Found {
            cluster: ClusterId(1),
            name: String::new(),
            lineage: Lineage { counter: 1, id: 1 },
            founder: applicant(1),
        },
        Command::Invite { id, secret_hash: [0; 32], role: Role::Director, expires_at: LEASE },
        Command::Join { invitation: id, applicant: applicant(2), at: Duration::ZERO },
        register(1),
        register(2),
    ]
}
