//! A table that takes longer to put in than a claim waits for a kernel that hangs: nobody is let in before all of it is there.

use crate::node::Director;
use crate::stage::{SERVERS, VIP, sh};
use anyhow::{Result, bail, ensure};
use std::fmt::Write;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Services before the one that a client asks for, in the order in which they are put in.
const BEFORE: u16 = 100;
/// Servers of each of them.
const EACH: u16 = 200;
/// That one's port.
const LAST: u16 = 60_000;
/// An attempt of the client.
const ATTEMPT: Duration = Duration::from_millis(50);
/// Long enough for an emulated machine to read all that.
const LONGEST: Duration = Duration::from_secs(120);

fn services() -> Result<String> {
    let mut text = String::new();
    for number in 0..BEFORE {
        write!(text, "[service.before{number}]\nvip = \"web\"\nlisten = \"{}:{}\"\n", VIP[0], 1_000 + number)?;
        text += "forwarding = \"nat\"\nserver = [";
        for server in 0..EACH {
            write!(text, "{{ address = \"{}:{}\" }}, ", SERVERS[0][0], 10_000 + server)?;
        }
        text += "]\n";
    }
    write!(text, "[service.last]\nvip = \"web\"\nlisten = \"{}:{LAST}\"\nforwarding = \"nat\"\n", VIP[0])?;
    writeln!(text, "server = [{{ address = \"{}:80\" }}]", SERVERS[0][0])?;
    Ok(text)
}

/// A director whose gate is open and whose service is not there refuses a connection; one that is shut says nothing.
pub fn table_is_whole_when_the_gate_opens(_: &mut ()) -> Result<String> {
    let group = format!(
        "[lease]\nttl = \"10s\"\n[vip.web]\ninterface = \"eth0\"\nvrid = 51\naddresses = [\"{}/24\"]\npriority = 100\n",
        VIP[0]
    );
    let mut director = Director::begin("", &(group + &services()?))?;
    // The kernel would look for the scheduler with the first service, which takes longer here than it may do nothing.
    sh(&director.stage.director, "modprobe ip_vs_wlc")?;
    director.stage.back_by_the_director()?;
    // Whatever is sent to the VIP gets to the director, gate or not.
    let mac = director.mac("eth0")?;
    sh(&director.stage.router, &format!("ip neigh replace {} lladdr {mac} dev br0 nud permanent", VIP[0]))?;
    let (to, began, mut attempts) = (SocketAddr::new(VIP[0].parse()?, LAST), Instant::now(), 0);
    loop {
        attempts += 1;
        match director.stage.client.netns().run(|| Ok(TcpStream::connect_timeout(&to, ATTEMPT)))? {
            Ok(_) => break,
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                bail!(
                    "the gate was open after {:?}, before its last service was in\n{}",
                    began.elapsed(),
                    director.log()
                )
            }
            Err(_) => ensure!(began.elapsed() < LONGEST, "not served within {LONGEST:?}\n{}", director.log()),
        }
    }
    let (services, servers) = director.programmed()?;
    ensure!(services == usize::from(BEFORE) + 1, "{services} services");
    Ok(format!(
        "{services} services with {servers} servers were there at the first of {attempts} connections that was let in"
    ))
}
