//! The machines: a client behind a router, and on the router's LAN a director and two servers.

use anyhow::{Context, Result, bail, ensure};
use hamesh::lab::host::Host;
use socket2::{Domain, SockRef, Socket, Type};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The service's addresses, on the director.
pub const VIP: [&str; 2] = ["10.5.0.100", "fd05::100"];
/// More of them, for services that are said in keepalived's words.
pub const MORE: [&str; 3] = ["10.5.0.101", "10.5.0.102", "10.5.0.103"];
/// The servers' addresses.
pub const SERVERS: [[&str; 2]; 2] = [["10.5.0.12", "fd05::12"], ["10.5.0.13", "fd05::13"]];
/// Their names, which are what they answer.
pub const NAMES: [&str; 2] = ["s1", "s2"];

pub const DIRECTOR: [&str; 2] = ["10.5.0.1", "fd05::1"];
const ROUTER: [&str; 2] = ["10.5.0.254", "fd05::fe"];
/// How long anything may take on a machine that is emulated.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The machines, which go when it is dropped.
pub struct Stage {
    pub client: Host,
    pub router: Host,
    pub director: Host,
    pub servers: [Host; 2],
    /// Whether each of them takes connections.
    serving: Vec<Arc<AtomicBool>>,
    running: Arc<AtomicBool>,
}

/// A connection of the client that stays.
pub struct Conversation {
    stream: BufReader<TcpStream>,
    /// The server's name.
    pub with: String,
}

/// Runs a shell script on a host.
pub fn sh(host: &Host, script: &str) -> Result<String> {
    host.output(Path::new("/bin/bash"), &["-ec", script], PATIENCE)
}

impl Stage {
    /// # Errors
    /// A machine cannot be made.
    pub fn set() -> Result<Self> {
        let dir = Path::new("/tmp/stage");
        if dir.exists() {
            fs::remove_dir_all(dir)?;
        }
        let host = |name: &str| Host::new(name, dir);
        let mut stage = Self {
            client: host("client")?,
            router: host("router")?,
            director: host("director")?,
            servers: [host(NAMES[0])?, host(NAMES[1])?],
            serving: Vec::new(),
            running: Arc::new(AtomicBool::new(true)),
        };
        let Self { client, router, director, servers: [s1, s2], .. } = &stage;
        for host in [client, router, director, s1, s2] {
            // Addresses are to be used at once, and answers go where the test has them go.
            sh(
                host,
                "sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_dad=0 \
                net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.default.send_redirects=0 \
                net.ipv4.conf.all.accept_redirects=0 net.ipv6.conf.all.accept_redirects=0",
            )?;
        }
        sh(
            router,
            "ip link add br0 type bridge; ip link set br0 up; ip addr add 10.5.0.254/24 dev br0; \
            ip addr add fd05::fe/64 dev br0; sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
        )?;
        stage.cable(client, "client")?;
        sh(
            router,
            "ip link set client nomaster; ip addr add 10.6.0.1/24 dev client; ip addr add fd06::1/64 dev client",
        )?;
        sh(
            client,
            "ip addr add 10.6.0.2/24 dev eth0; ip addr add fd06::2/64 dev eth0; \
            ip route add default via 10.6.0.1; ip route add default via fd06::1",
        )?;
        stage.on_the_lan(director, DIRECTOR)?;
        sh(director, "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")?;
        stage.on_the_lan(s1, SERVERS[0])?;
        stage.on_the_lan(s2, SERVERS[1])?;
        for (server, name) in stage.servers.iter().zip(NAMES) {
            stage.serving.push(stage.serve(server, name)?);
        }
        stage.settle()?;
        Ok(stage)
    }

    /// The director has the VIPs, as it has them when a lease is held, and an empty table.
    pub fn vips_on_the_director(&self) -> Result<()> {
        sh(
            &self.director,
            &format!(
                "ipvsadm -C; ip addr replace {}/32 dev eth0; ip addr replace {}/128 dev eth0 preferred_lft 0",
                VIP[0], VIP[1]
            ),
        )?;
        Ok(())
    }

    /// A server that comes again, in whatever service, still has what it had counted before, and the kernel adds that up to two
    /// seconds late.
    pub fn counts_are_settled(&self) {
        thread::sleep(Duration::from_millis(2500));
    }

    /// The director has nothing of what a test by hand has given it.
    pub fn clear_the_director(&self) -> Result<()> {
        sh(
            &self.director,
            &format!(
                "ipvsadm -C; ip addr flush to {}/28 dev eth0; ip addr flush to {} dev eth0; \
                 nft 'add table ip scheduled; delete table ip scheduled'",
                VIP[0], VIP[1]
            ),
        )?;
        Ok(())
    }

    /// Puts a host on the LAN, with the router as its way out.
    pub fn on_the_lan(&self, host: &Host, [v4, v6]: [&str; 2]) -> Result<()> {
        self.cable(host, host.name())?;
        sh(host, &format!("ip addr add {v4}/24 dev eth0; ip addr add {v6}/64 dev eth0"))?;
        way_out(host, ROUTER)
    }

    /// Answers leave the servers by the director, which translates them back.
    pub fn back_by_the_director(&self) -> Result<()> {
        self.servers.iter().try_for_each(|server| way_out(server, DIRECTOR))
    }

    /// Answers leave the servers past the director.
    pub fn back_by_the_router(&self) -> Result<()> {
        self.servers.iter().try_for_each(|server| way_out(server, ROUTER))
    }

    /// The servers have the VIPs themselves, and keep them to themselves.
    pub fn vips_on_the_servers(&self) -> Result<()> {
        self.servers.iter().try_for_each(|server| self.vips_on(server))
    }

    /// The same for any host.
    pub fn vips_on(&self, server: &Host) -> Result<()> {
        let each = VIP.iter().chain(&MORE).map(|ip| format!("ip addr replace {ip} dev lo; ")).collect::<String>();
        let quiet = "sysctl -qw net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2";
        sh(server, &format!("{each}{quiet}"))?;
        Ok(())
    }

    fn cable(&self, host: &Host, name: &str) -> Result<()> {
        let netns = format!("/proc/{}/fd/{}", std::process::id(), host.netns().as_raw_fd());
        sh(
            &self.router,
            &format!("ip link add {name} type veth peer name eth0 netns {netns}; ip link set {name} master br0 up"),
        )?;
        sh(host, "ip link set eth0 up")?;
        Ok(())
    }

    /// Greets every TCP connection to port 80 with a name, and answers each line and each datagram with it. Takes
    /// connections only while the flag is set.
    pub fn serve(&self, host: &Host, name: &'static str) -> Result<Arc<AtomicBool>> {
        let udp = host.netns().run(|| Ok(UdpSocket::bind("[::]:80")?))?;
        udp.set_read_timeout(Some(Duration::from_millis(100)))?;
        let (running, netns) = (self.running.clone(), host.netns().clone());
        let serving = Arc::new(AtomicBool::new(true));
        let serves = serving.clone();
        let listen = move || {
            netns.run(|| {
                let listener = TcpListener::bind("[::]:80")?;
                listener.set_nonblocking(true)?;
                Ok(listener)
            })
        };
        let mut listener = Some(listen()?);
        thread::spawn(move || {
            while running.load(Ordering::Relaxed) {
                if !serves.load(Ordering::Relaxed) {
                    listener = None;
                } else if listener.is_none() {
                    listener = listen().ok();
                }
                match listener.as_ref().map(TcpListener::accept) {
                    Some(Ok((stream, _))) => drop(thread::spawn(move || converse(stream, name))),
                    Some(Err(_)) | None => thread::sleep(Duration::from_millis(5)),
                }
            }
        });
        let running = self.running.clone();
        thread::spawn(move || {
            let mut buffer = [0; 64];
            while running.load(Ordering::Relaxed) {
                if let Ok((_, from)) = udp.recv_from(&mut buffer) {
                    drop(udp.send_to(name.as_bytes(), from));
                }
            }
        });
        Ok(serving)
    }

    /// A server takes connections, or refuses them; those that it has go on.
    pub fn set_serving(&self, server: usize, serves: bool) {
        self.serving[server].store(serves, Ordering::Relaxed);
    }

    /// Begins a connection of the client to an address.
    pub fn converse(&self, address: SocketAddr, timeout: Duration) -> Result<Conversation> {
        self.client.netns().run(|| Conversation::begin(TcpStream::connect_timeout(&address, timeout)?, timeout))
    }

    /// The same from one of the client's addresses, and from a port of its own where that is not 0.
    pub fn converse_from(&self, own: SocketAddr, address: SocketAddr, timeout: Duration) -> Result<Conversation> {
        self.client.netns().run(|| {
            let socket = Socket::new(Domain::for_address(own), Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&own.into())?;
            socket.connect_timeout(&address.into(), timeout)?;
            Conversation::begin(socket.into(), timeout)
        })
    }

    /// Who answers the client at an address: the name of a server.
    pub fn ask(&self, address: SocketAddr, timeout: Duration) -> Result<String> {
        Ok(self.converse(address, timeout)?.with)
    }

    /// Who answers a datagram of the client.
    pub fn ask_by_datagram(&self, address: SocketAddr) -> Result<String> {
        self.client.netns().run(|| {
            let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
            let socket = UdpSocket::bind((any, 0))?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.connect(address)?;
            socket.send(b"who")?;
            let mut buffer = [0; 64];
            let length = socket.recv(&mut buffer)?;
            Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
        })
    }

    /// Who answers so many datagrams of one socket of the client, wherefrom the answers may come.
    pub fn datagrams(&self, address: SocketAddr, count: usize) -> Result<Vec<String>> {
        self.client.netns().run(|| {
            let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
            let socket = UdpSocket::bind((any, 0))?;
            socket.set_read_timeout(Some(PATIENCE))?;
            let mut answers = Vec::new();
            for _ in 0..count {
                socket.send_to(b"who", address)?;
                let mut buffer = [0; 64];
                let (length, _) = socket.recv_from(&mut buffer)?;
                answers.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
            }
            Ok(answers)
        })
    }

    /// Greets every SCTP association to an address of a server with a name, for as long as the stage is there.
    pub fn serve_sctp(&self, address: SocketAddr, name: &'static str) -> Result<()> {
        let server = self.servers.iter().zip(NAMES).find(|(_, named)| *named == name).context("a server")?.0;
        let listener = server.netns().run(|| {
            let socket = sctp(address)?;
            socket.bind(&address.into())?;
            socket.listen(16)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        })?;
        let running = self.running.clone();
        thread::spawn(move || {
            while running.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((association, _)) => drop(association.send(name.as_bytes())),
                    Err(_) => thread::sleep(Duration::from_millis(5)),
                }
            }
        });
        Ok(())
    }

    /// Who greets an SCTP association of one of the client's addresses.
    pub fn ask_by_sctp(&self, own: IpAddr, address: SocketAddr) -> Result<String> {
        self.client.netns().run(|| {
            let socket = sctp(address)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.set_write_timeout(Some(PATIENCE))?;
            // Without the addresses that it may use beside this one, which are not translated.
            socket.bind(&SocketAddr::new(own, 0).into())?;
            socket.connect(&address.into())?;
            let mut buffer = [0; 64];
            let length = (&socket).read(&mut buffer)?;
            Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
        })
    }

    /// How many of `count` connections each server has answered.
    pub fn count(&self, address: SocketAddr, count: u32) -> Result<[u32; 2]> {
        let mut counts = [0; 2];
        for _ in 0..count {
            let answer = self.ask(address, PATIENCE)?;
            let who = NAMES.iter().position(|name| *name == answer).with_context(|| format!("{answer:?} answered"))?;
            counts[who] += 1;
        }
        Ok(counts)
    }

    /// Waits until the servers are reached from the client past the director: neighbours are known, routes work.
    fn settle(&self) -> Result<()> {
        for address in SERVERS.iter().flatten() {
            let deadline = Instant::now() + PATIENCE;
            let address = SocketAddr::new(address.parse()?, 80);
            while let Err(error) = self.ask(address, Duration::from_secs(2)) {
                if Instant::now() > deadline {
                    bail!("{address} is not reached past the director: {error:#}");
                }
                thread::sleep(Duration::from_millis(50));
            }
        }
        Ok(())
    }
}

impl Conversation {
    fn begin(stream: TcpStream, timeout: Duration) -> Result<Self> {
        stream.set_read_timeout(Some(timeout))?;
        let mut conversation = Self { stream: BufReader::new(stream), with: String::new() };
        conversation.with = conversation.hear()?;
        Ok(conversation)
    }

    /// Its end is not a farewell but a reset, which others forget sooner.
    pub fn reset_when_it_ends(&self) -> Result<()> {
        Ok(SockRef::from(self.stream.get_ref()).set_linger(Some(Duration::ZERO))?)
    }

    /// The server still answers.
    pub fn goes_on(&mut self) -> Result<()> {
        self.stream.get_mut().set_read_timeout(Some(PATIENCE))?;
        self.stream.get_mut().write_all(b"\n")?;
        let answer = self.hear()?;
        ensure!(answer == self.with, "{answer:?} answers in the place of {}", self.with);
        Ok(())
    }

    fn hear(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(self.stream.read_line(&mut line)? > 0, "the connection has ended");
        Ok(line.trim_end().to_owned())
    }
}

/// A server's end of a connection. A client that is gone needs no answer.
fn converse(mut stream: TcpStream, name: &str) {
    let Ok(reader) = stream.try_clone() else { return };
    let mut lines = BufReader::new(reader).lines();
    while writeln!(stream, "{name}").is_ok() && matches!(lines.next(), Some(Ok(_))) {}
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.running.store(false, Ordering::Relaxed);
    }
}

/// A socket of one association.
fn sctp(of: SocketAddr) -> Result<Socket> {
    /// RFC 9260.
    const SCTP: i32 = 132;
    Socket::new(Domain::for_address(of), Type::STREAM, Some(SCTP.into())).context("an SCTP socket")
}

fn way_out(host: &Host, [v4, v6]: [&str; 2]) -> Result<()> {
    sh(host, &format!("ip route replace default via {v4}; ip -6 route replace default via {v6}"))?;
    Ok(())
}
