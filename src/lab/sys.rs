//! The three system calls that no safe wrapper of ours offers: binding a packet socket to one interface,
//! switching off a NIC's offloads, and asking for real-time priority.
#![allow(unsafe_code, reason = "sockaddr_ll, SIOCETHTOOL and sched_setscheduler have no safe wrapper here")]

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io;
use std::mem::size_of;
use std::os::fd::AsRawFd;

/// A non-blocking packet socket that receives every frame arriving on the interface, and none that it sent.
///
/// # Errors
/// Those of socket(2) and bind(2): EPERM without CAP_NET_RAW in the namespace, ENODEV for an unknown index.
pub fn packet_socket(ifindex: u32) -> io::Result<Socket> {
    // Protocol 0 until bind(2), so that nothing of another interface slips in.
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
    socket.set_nonblocking(true)?;
    let on: libc::c_int = 1;
    // SAFETY: the option takes an int; the pointer is valid for its size during the call.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_IGNORE_OUTGOING,
            (&raw const on).cast(),
            socklen(size_of::<libc::c_int>()),
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    let index = i32::try_from(ifindex).map_err(|_| io::ErrorKind::InvalidInput)?;
    let all = u16::try_from(libc::ETH_P_ALL).map_err(|_| io::ErrorKind::InvalidInput)?;
    let family = u16::try_from(libc::AF_PACKET).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the storage is zeroed, larger than sockaddr_ll and aligned for every sockaddr; the length is set.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            let address = storage.cast::<libc::sockaddr_ll>();
            (*address).sll_family = family;
            (*address).sll_protocol = all.to_be();
            (*address).sll_ifindex = index;
            *length = socklen(size_of::<libc::sockaddr_ll>());
            Ok(())
        })?
    };
    socket.bind(&address)?;
    Ok(socket)
}

fn socklen(size: usize) -> libc::socklen_t {
    libc::socklen_t::try_from(size).unwrap_or(libc::socklen_t::MAX)
}

// linux/ethtool.h
const ETHTOOL_STXCSUM: u32 = 0x17;
const ETHTOOL_STSO: u32 = 0x1f;
const ETHTOOL_SGSO: u32 = 0x24;

#[repr(C)]
struct EthtoolValue {
    cmd: u32,
    data: u32,
}

/// Makes an interface of the calling thread's network namespace send finished frames only: checksums filled in and
/// no segment larger than the MTU. A veth otherwise leaves both to hardware that is not there.
///
/// # Errors
/// Those of SIOCETHTOOL, ENODEV for an unknown name.
pub fn finish_frames(interface: &str) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    for cmd in [ETHTOOL_STXCSUM, ETHTOOL_STSO, ETHTOOL_SGSO] {
        let mut value = EthtoolValue { cmd, data: 0 };
        // SAFETY: ifreq is plain data, all zeroes are a valid value of it.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        if interface.len() >= request.ifr_name.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
            *to = libc::c_char::from_ne_bytes([from]);
        }
        request.ifr_ifru.ifru_data = (&raw mut value).cast();
        // SAFETY: the request and the value it points to live through the call, with the layouts of the kernel's
        // headers.
        if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Asks for SCHED_FIFO for the calling thread. Without the privilege it keeps its priority, and its measured
/// lateness says what that costs.
///
/// # Errors
/// EPERM without CAP_SYS_NICE in the first user namespace.
pub fn run_in_real_time() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 10 };
    // SAFETY: thread 0 is the caller, the parameters live through the call.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &raw const parameters) } != 0
    {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
