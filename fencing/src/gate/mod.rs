//! The gate: kernel rules that let a VIP answer only while its lease lives.
//!
//! A process that is frozen, swapped out or killed cannot end its own claim. So the claim ends in the kernel: a VIP is
//! open while its address is in the untimed set `held`, **and** the session's element with its timeout lives, **and**
//! the wall clock is before an absolute deadline. The timeout runs on jiffies and stops in suspend; the deadline does
//! not, and ends what was armed by a process that was frozen in the act. Either alone shuts.
//!
//! Shut, the gate drops: ARP requests and neighbour solicitations for a VIP, IP to a VIP that would be delivered locally;
//! on every way out ARP and IP whose sender is a VIP and neighbour advertisements of one, and adverts of its virtual
//! routers with a priority above 0. It passes traffic out *to* a
//! VIP and in *from* one, what is only on its way through the host, and adverts with priority 0: a BACKUP must reach
//! the MASTER, and say that it stops. And where this host serves as a real server, what members forward to a VIP
//! ([`Gate::serve_locally`]). A device with a virtual MAC ([`Devices::virtual_macs`]) is shut as a whole, but
//! for the adverts that come in.
//!
//! Limits: another process can change the tables before Linux 6.9 ([`Gate::check`]), and later too while nobody owns
//! them: between the death of one process and the start of the next. Before Linux 5.16 what packet sockets send is not
//! seen; with `PACKET_QDISC_BYPASS` it never is. A kernel without nf_tables has [`Lifetimes`] instead.

mod batch;
mod claims;
mod deaf;
mod expression;
mod keeper;
mod lifetimes;
mod local;
mod lock;
mod rules;
mod said;
mod sets;
mod survey;
#[cfg(test)]
mod tests;
mod wall;

pub use keeper::Keeper;
pub use lifetimes::Lifetimes;
pub use said::Said;

use crate::clock::{LATENESS, Moment};
use batch::{Failure, Kernel, Request};
use hamesh_raft::command::{Definition, GateId};
use local::Local;
use lock::Lock;
use rules::{Abilities, Table};
use sets::{Contents, Pair};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::time::Duration;
use std::{fmt, io};
use wall::WallClock;

/// An arm that took longer than this is undone: what it was computed from is no longer true.
const SLOWEST: Duration = Duration::from_millis(10);
/// Percent of the remainder that is armed: NTP may slew jiffies and the wall clock by 10 % of tick and 0.1 % of
/// frequency, the deadline's own clocks are not slewed.
const SLEW_PERCENT: u32 = 89;
/// Taken off for the granularity of jiffies and for packets that are on their way out.
const MARGIN: Duration = Duration::from_millis(20);

/// Why the gate could not be changed. Unless said otherwise nothing was changed then.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// The lock is taken.
    #[error("another hamesh director runs in this network namespace")]
    Locked,
    /// There is nothing to make rules with: see [`Lifetimes`].
    #[error("this kernel has no nf_tables")]
    NoRules,
    /// A process that does not hold the lock owns the tables.
    #[error("the nftables table `hamesh` belongs to another process (netlink port {0})")]
    Owned(u32),
    /// The deadline is too near, or the kernel had the change later than it would have been safe; then the gate is shut.
    #[error("too late to open the gate")]
    Late,
    /// The gate of an earlier run cannot be taken over: there is none, or it is not whole.
    #[error("no gate of an earlier run to take over")]
    NotFound,
    /// An address that is not among the guarded ones cannot be held.
    #[error("{0} is not guarded by the gate")]
    Unguarded(IpAddr),
    /// The kernel refused.
    #[error("the kernel refused to {step}: {source}")]
    Refused {
        /// What was asked of it.
        step: String,
        /// Its answer.
        source: io::Error,
    },
    /// The kernel could not be asked, and what it has done is unknown.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What happened.
        source: io::Error,
    },
}

/// The network devices that a gate looks at beside the host as a whole. One that is not there is gated when it comes, before
/// Linux 6.16 from the next [`Gate::interfaces_changed`] on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Devices {
    /// Where adverts go out: what packet sockets send there is gated too.
    pub vrrp: Vec<String>,
    /// The device with the virtual MAC of a group: nothing enters or leaves it while the group is shut.
    pub virtual_macs: Vec<(Definition, String)>,
    /// Somebody else makes the devices with virtual MACs, whenever it likes. What its packet sockets send on one is
    /// gated on the interface below, as far as it is of a VIP.
    pub made_elsewhere: bool,
}

impl Devices {
    fn names(&self) -> Vec<String> {
        let with_mac = self.virtual_macs.iter().filter(|_| !self.made_elsewhere).map(|(_, device)| device.clone());
        self.vrrp.iter().cloned().chain(with_mac).collect()
    }
}

/// The gate of this network namespace. Whoever has it is the only one who writes it.
pub struct Gate {
    kernel: Kernel,
    _lock: Lock,
    wall: WallClock,
    id: GateId,
    abilities: Abilities,
    groups: Vec<Definition>,
    devices: Devices,
    held: Vec<Definition>,
    local: Local,
    /// Addresses that nothing is delivered to.
    deaf: BTreeSet<IpAddr>,
    /// What the session was last armed for.
    deadline: Option<Moment>,
    /// The generation of the rule set that our own last commit made.
    generation: u32,
}

impl Gate {
    /// Takes the lock of this network namespace and looks for the gate of an earlier run.
    ///
    /// # Errors
    /// [`GateError::Locked`] if another director runs here; [`GateError::Owned`]. Either passes by itself when a process
    /// before this one is still ending, or had just started a child: ask again. [`GateError::NoRules`]. No privilege for netlink.
    pub fn acquire() -> Result<Keeper, GateError> {
        Keeper::acquire()
    }

    /// Whether this kernel has what a gate is made of.
    ///
    /// # Errors
    /// It does not say so to everybody: no privilege for netlink.
    pub fn is_possible() -> Result<bool, GateError> {
        Ok(Kernel::find().map_err(unread)?.is_some())
    }

    /// The random number that is kept in the gate itself.
    pub fn id(&self) -> GateId {
        self.id
    }

    /// How long after its deadline this gate may still let a packet out: q of the session's promise.
    pub fn lateness(&self) -> Duration {
        LATENESS
    }

    /// Whether no other process can change the gate, and it outlives this one (Linux 6.9).
    pub fn persistent(&self) -> bool {
        self.abilities.persistent
    }

    /// Whether what packet sockets send on the VRRP interfaces is gated too (Linux 5.16).
    pub fn sees_packet_sockets(&self) -> bool {
        self.abilities.egress
    }

    /// The groups that are held, whether or not the session lives.
    pub fn held(&self) -> &[Definition] {
        &self.held
    }

    /// Opens what is held until `deadline`, or a little earlier. Costs the same for one VIP and for a thousand.
    ///
    /// # Errors
    /// [`GateError::Late`]: the deadline is nearer than 23 ms, and nothing was changed; or this process was stopped for
    /// more than 10 ms on the way, and the session was ended at once. Otherwise what was armed before stays armed.
    pub fn arm(&mut self, deadline: Moment) -> Result<(), GateError> {
        match self.timed(deadline, Vec::new()) {
            Err(GateError::Refused { .. }) if !self.persistent() => {
                self.deadline = Some(deadline);
                self.put_back()
            }
            result => result,
        }
    }

    /// Lets `groups` answer while the session lives. They stay held until dropped, however many sessions pass.
    ///
    /// # Errors
    /// [`GateError::Unguarded`] for an address that is in no group of [`Gate::set_groups`]; the kernel's own.
    pub fn hold(&mut self, groups: &[Definition]) -> Result<(), GateError> {
        let contents = Contents::of(groups, &self.devices);
        let guarded = Contents::of(&self.groups, &self.devices);
        if let Some(address) = contents.addresses.difference(&guarded.addresses).next() {
            return Err(GateError::Unguarded(*address));
        }
        let before = self.held.clone();
        self.held.extend(groups.iter().filter(|group| !before.contains(group)).cloned());
        let add = |table| sets::add(table, Pair::Held, &contents);
        let result = self.commit(&everywhere(add));
        self.settle(result).inspect_err(|_| self.held = before)
    }

    /// Shuts the gate for `groups`; when this returns `Ok`, the kernel lets nothing more out for them.
    ///
    /// # Errors
    /// The kernel's own; then the groups are open until the deadline at most.
    pub fn drop_hold(&mut self, groups: &[Definition]) -> Result<(), GateError> {
        let (gone, kept): (Vec<_>, Vec<_>) = self.held.iter().cloned().partition(|group| groups.contains(group));
        // Two groups on two interfaces can have the same VRID.
        let contents = Contents::of(&gone, &self.devices).without(&Contents::of(&kept, &self.devices));
        let before = std::mem::replace(&mut self.held, kept);
        let remove = |table| sets::remove(table, Pair::Held, &contents);
        let result = self.commit(&everywhere(remove));
        self.settle(result).inspect_err(|_| self.held = before)
    }

    /// Ends the session and holds nothing.
    ///
    /// # Errors
    /// The kernel's own; then what is held is open until the deadline at most.
    pub fn shut(&mut self) -> Result<(), GateError> {
        let before = (std::mem::take(&mut self.held), self.deadline.take());
        let requests = everywhere(|table| [rules::shut(table), sets::empty(table, Pair::Held)].concat());
        let result = self.commit(&requests);
        self.settle(result).inspect_err(|_| (self.held, self.deadline) = before)
    }

    /// Guards `groups` instead of those before. A held group that is not among them is dropped in the same moment.
    ///
    /// # Errors
    /// The kernel's own.
    pub fn set_groups(&mut self, groups: &[Definition]) -> Result<(), GateError> {
        let guarded = Contents::of(groups, &self.devices);
        let held: Vec<_> = self.held.iter().filter(|group| groups.contains(group)).cloned().collect();
        let kept = Contents::of(&held, &self.devices);
        let before = (std::mem::replace(&mut self.groups, groups.to_vec()), std::mem::replace(&mut self.held, held));
        let result = self.commit(&everywhere(|table| sets::fill(table, &guarded, &kept)));
        self.settle(result).inspect_err(|_| (self.groups, self.held) = before)
    }

    /// Lets packets to `addresses` in, though they are not held, that come from one of the MACs `members`, and the answers
    /// out: this host is a real server of theirs, with IPVS's direct forwarding.
    ///
    /// # Errors
    /// The kernel's own.
    pub fn serve_locally(&mut self, addresses: &[IpAddr], members: &[[u8; 6]]) -> Result<(), GateError> {
        let (addresses, members) = (addresses.iter().copied().collect(), members.iter().copied().collect());
        let before = std::mem::replace(&mut self.local, Local { addresses, members });
        let requests = everywhere(|table| local::fill(table, &self.local));
        let result = self.commit(&requests);
        self.settle(result).inspect_err(|_| self.local = before)
    }

    /// Takes no packets to `addresses`, also while they are held; what only comes by them passes.
    ///
    /// # Errors
    /// The kernel's own.
    pub fn refuse(&mut self, addresses: &[IpAddr]) -> Result<(), GateError> {
        let before = std::mem::replace(&mut self.deaf, addresses.iter().copied().collect());
        let requests = everywhere(|table| deaf::fill(table, &self.deaf));
        let result = self.commit(&requests);
        self.settle(result).inspect_err(|_| self.deaf = before)
    }

    /// Gates what packet sockets send on `interfaces`.
    ///
    /// # Errors
    /// The kernel's own.
    pub fn set_interfaces(&mut self, interfaces: &[String]) -> Result<(), GateError> {
        let mut requests = self.kernel.clearing_egress().map_err(unread)?;
        let devices = Devices { vrrp: interfaces.to_vec(), ..self.devices.clone() };
        let names = self.kernel.egress(&devices, self.abilities);
        requests.extend(rules::ways(Table::Netdev, self.abilities, &names));
        if !requests.is_empty() {
            self.commit(&requests)?;
        }
        self.devices = devices;
        Ok(())
    }

    /// To be called when one of the devices has come or gone: before Linux 6.16 the kernel forgets one that goes.
    ///
    /// # Errors
    /// The kernel's own; one that has just gone again is told once more.
    pub fn interfaces_changed(&mut self) -> Result<(), GateError> {
        if self.abilities.absent { Ok(()) } else { self.set_interfaces(&self.devices.vrrp.clone()) }
    }

    /// Becomes readable when the wall clock was set: call [`Gate::rearm_wall_clock`] at once then.
    pub fn wall_clock(&self) -> BorrowedFd<'_> {
        self.wall.as_fd()
    }

    /// If the wall clock has stepped since the last call, arms again for the last deadline, by the new time. A step
    /// forward had shut the gate early; after one back only the element's timeout was in force.
    ///
    /// # Errors
    /// As [`Gate::arm`].
    pub fn rearm_wall_clock(&mut self) -> Result<(), GateError> {
        if self.wall.stepped()?
            && let Some(deadline) = self.deadline
            && !Moment::now().reached(deadline)
        {
            return self.arm(deadline);
        }
        Ok(())
    }

    /// Whether the gate is surely as we wrote it. Where it is not [`Gate::persistent`], any change of any table in this
    /// namespace by somebody else makes it unsure: then [`Gate::put_back`].
    ///
    /// # Errors
    /// The kernel could not be asked.
    pub fn check(&mut self) -> Result<bool, GateError> {
        Ok(self.persistent() || self.kernel.generation().map_err(unread)? == self.generation)
    }

    /// Writes the whole gate anew, shut, with what is held; then opens it until its last deadline.
    ///
    /// # Errors
    /// As [`Gate::arm`].
    pub fn put_back(&mut self) -> Result<(), GateError> {
        let mut requests = self.kernel.clearing().map_err(unread)?;
        let (guarded, held) = (Contents::of(&self.groups, &self.devices), Contents::of(&self.held, &self.devices));
        let names = self.kernel.egress(&self.devices, self.abilities);
        requests.extend(rules::whole(self.id, self.abilities, &names, &guarded, &held));
        requests.extend(everywhere(|table| local::fill(table, &self.local)));
        requests.extend(everywhere(|table| deaf::fill(table, &self.deaf)));
        self.generation = self.kernel.generation().map_err(unread)?;
        // To make the tables takes longer than a hand may take to arm them: the kernel waits for its hooks.
        self.commit(&requests)?;
        match self.deadline {
            Some(deadline) if arming(deadline).is_some() => self.timed(deadline, Vec::new()),
            Some(_) | None => Ok(()),
        }
    }

    /// Takes the gate away. Only for a host that is to be no director any more: nothing is guarded then.
    ///
    /// # Errors
    /// The kernel's own.
    pub fn remove(mut self) -> Result<(), GateError> {
        let requests = Table::ALL.map(rules::delete_table);
        self.commit(&requests)
    }

    /// Commits `first` and the session's renewal for `deadline`, in time or not at all.
    fn timed(&mut self, deadline: Moment, first: Vec<Request>) -> Result<(), GateError> {
        let mut requests = first;
        let start = Moment::now();
        // The wall clock is read first: being stopped between the two readings only makes both ends earlier.
        let wall = WallClock::now();
        let span = arming(deadline).ok_or(GateError::Late)?;
        requests.extend(everywhere(|table| rules::arm(table, span, wall + span)));
        let result = self.commit(&requests);
        if Moment::now().reached(start + SLOWEST) {
            self.deadline = None;
            self.commit(&everywhere(rules::shut))?;
            return Err(GateError::Late);
        }
        result?;
        self.deadline = Some(deadline);
        Ok(())
    }

    /// Puts the whole gate back after the kernel refused a change that it must take: somebody else's change, possible
    /// only where the gate is not persistent.
    fn settle(&mut self, result: Result<(), GateError>) -> Result<(), GateError> {
        match result {
            Err(GateError::Refused { .. }) if !self.persistent() => self.put_back(),
            result => result,
        }
    }

    fn commit(&mut self, requests: &[Request]) -> Result<(), GateError> {
        self.kernel.commit(requests).map_err(|failure| refusal(requests, failure))?;
        // Zero is no generation.
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        Ok(())
    }
}

/// How long a session may be armed that ends at `deadline`; nothing when it is too near.
fn arming(deadline: Moment) -> Option<Duration> {
    let span = (Moment::now().until(deadline) * SLEW_PERCENT / 100).checked_sub(MARGIN)?;
    // Zero would be an element without end.
    (span.as_millis() > 0).then_some(span)
}

fn everywhere(requests: impl Fn(Table) -> Vec<Request>) -> Vec<Request> {
    Table::ALL.into_iter().flat_map(requests).collect()
}

fn unread(source: io::Error) -> GateError {
    GateError::Io { what: "read the nftables rule set", source }
}

fn refusal(requests: &[Request], failure: Failure) -> GateError {
    match failure {
        Failure::Io(source) => GateError::Io { what: "write the nftables rule set", source },
        Failure::Refused(refused) => {
            // Later requests are refused because the first was.
            let first = refused.into_iter().min_by_key(|(place, _)| *place);
            let (place, errno) = first.unwrap_or((requests.len(), rustix::io::Errno::INVAL));
            let step = requests.get(place).map_or_else(|| "commit the nftables rule set".into(), Request::to_string);
            GateError::Refused { step, source: errno.into() }
        }
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("id", &self.id).field("held", &self.held).finish_non_exhaustive()
    }
}
