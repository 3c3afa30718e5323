//! Checks against servers that Debian has, configured as an operator would: nginx and haproxy with TLS, bind, dnsmasq, opensmtpd.

use anyhow::{Context, Result, ensure};
use hamesh::config;
use hamesh::health::Said;
use hamesh::lab::host::{Host, Process};
use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);
const PAGE: &str = "all is well\n";

const NGINX: &str = r#"daemon off; worker_processes 1; error_log stderr; pid DIR/nginx.pid;
events { worker_connections 64; }
http {
  access_log off; client_body_temp_path DIR/b; proxy_temp_path DIR/p; fastcgi_temp_path DIR/f; uwsgi_temp_path DIR/u; scgi_temp_path DIR/s;
  server { listen 127.0.0.1:8080; listen [::1]:8080; listen 127.0.0.1:8443 ssl; server_name www.example.org;
    ssl_certificate DIR/cert.pem; ssl_certificate_key DIR/key.pem; ssl_protocols TLSv1.2 TLSv1.3; root DIR/www;
    location /moved { return 301 /page; }
    location /busy { return 503; } }
  server { listen 127.0.0.1:8443 ssl; server_name other.example.org;
    ssl_certificate DIR/cert.pem; ssl_certificate_key DIR/key.pem; return 404; }
  server { listen 127.0.0.1:8444 ssl; ssl_certificate DIR/cert.pem; ssl_certificate_key DIR/key.pem; root DIR/www;
    ssl_client_certificate DIR/cert.pem; ssl_verify_client on; }
}
"#;

/// What it serves is nginx's, but a page of its own and a backend that is not there.
const HAPROXY: &str = r#"defaults
  mode http
  timeout connect 1s
  timeout client 5s
  timeout server 5s
frontend web
  bind 127.0.0.1:8090
  bind 127.0.0.1:8490 ssl crt DIR/both.pem alpn h2,http/1.1 strict-sni
  monitor-uri /alive
  http-request return status 200 content-type text/plain string "here I am" if { path /own }
  http-request deny deny_status 429 if { path /often }
  use_backend none if { path /none }
  default_backend nginx
backend nginx
  server nginx 127.0.0.1:8080
backend none
  server none 127.0.0.1:8081
"#;

const NAMED: &str = r#"options {
  directory "DIR"; listen-on port 5310 { 127.0.0.1; }; listen-on-v6 port 5310 { ::1; };
  recursion no; pid-file none; session-keyfile none; lock-file none; dnssec-validation no;
};
controls {};
zone "example.org" { type primary; file "zone"; };
"#;

const ZONE: &str = r#"$TTL 60
@ IN SOA ns hostmaster 1 3600 600 86400 60
@ NS ns
@ MX 10 mail
@ TXT "of a test"
ns A 127.0.0.1
mail A 127.0.0.1
www A 10.77.0.100
www AAAA 2001:db8::100
web CNAME www
"#;

const SMTPD: &str = "listen on 127.0.0.1 port 2525\naction none relay\nmatch for domain none.invalid action none\n";

/// What is asked at which port, and how the answer begins: "" for a good one.
const CHECKS: &[(&str, &str, &str)] = &[
    ("127.0.0.1:8080", "tcp = {}", ""),
    ("127.0.0.1:8081", "tcp = {}", "connection refused"),
    ("[::1]:8080", r#"http = { path = "/page", regex = "^all is" }"#, ""),
    ("127.0.0.1:8080", r#"http = { path = "/page", version = "1.0", digest = "DIGEST" }"#, ""),
    ("127.0.0.1:8080", r#"http = { path = "/page", digest = "DIGEST", no_regex = "ill" }"#, ""),
    (
        "127.0.0.1:8080",
        r#"http = { path = "/page", digest = "0123456789abcdef0123456789abcdef" }"#,
        "the digest is DIGEST",
    ),
    ("127.0.0.1:8080", r#"http = { path = "/moved" }"#, "HTTP status 301"),
    ("127.0.0.1:8080", r#"http = { path = "/moved", status = "200, 300-399" }"#, ""),
    ("127.0.0.1:8080", r#"http = { path = "/busy" }"#, "HTTP status 503"),
    ("127.0.0.1:8443", r#"https = { path = "/page", host = "www.example.org", regex = "well" }"#, ""),
    ("127.0.0.1:8443", r#"https = { path = "/page", host = "www.example.org", ca = "DIR/cert.pem" }"#, ""),
    ("127.0.0.1:8443", r#"https = { path = "/page", host = "other.example.org" }"#, "HTTP status 404"),
    (
        "127.0.0.1:8443",
        r#"https = { path = "/page", host = "other.example.org", ca = "DIR/cert.pem" }"#,
        "TLS: invalid peer certificate",
    ),
    ("127.0.0.1:8443", r#"https = { path = "/page", host = "www.example.org", ca = "DIR/other.pem" }"#, "TLS: "),
    ("127.0.0.1:8080", r#"https = { path = "/page" }"#, "TLS: "),
    ("127.0.0.1:8443", r#"http = { path = "/page" }"#, "HTTP status 400"),
    ("127.0.0.1:8444", r#"https = { path = "/page" }"#, "HTTP status 400"),
    ("127.0.0.1:8444", r#"https = { path = "/page", certificate = "DIR/cert.pem", key = "DIR/key.pem" }"#, ""),
    ("127.0.0.1:8090", r#"http = { path = "/alive" }"#, ""),
    ("127.0.0.1:8090", r#"http = { path = "/own", regex = "^here I am$" }"#, ""),
    ("127.0.0.1:8090", r#"http = { path = "/page", digest = "DIGEST" }"#, ""),
    ("127.0.0.1:8090", r#"http = { path = "/page", version = "1.0", digest = "DIGEST" }"#, ""),
    ("127.0.0.1:8090", r#"http = { path = "/often" }"#, "HTTP status 429"),
    ("127.0.0.1:8090", r#"http = { path = "/none" }"#, "HTTP status 503"),
    ("127.0.0.1:8490", r#"https = { path = "/own", host = "www.example.org", ca = "DIR/cert.pem" }"#, ""),
    ("127.0.0.1:8490", r#"https = { path = "/own", host = "www.example.org", sni = "" }"#, "TLS: "),
    ("127.0.0.1:5310", r#"dns = { name = "www.example.org", type = "A" }"#, ""),
    ("[::1]:5310", r#"dns = { name = "www.example.org", type = "AAAA" }"#, ""),
    ("127.0.0.1:5310", r#"dns = { name = "web.example.org", type = "CNAME" }"#, ""),
    ("127.0.0.1:5310", r#"dns = { name = "example.org", type = "SOA" }"#, ""),
    ("127.0.0.1:5310", r#"dns = { name = "example.org", type = "NS" }"#, ""),
    ("127.0.0.1:5310", r#"dns = { name = "example.org", type = "MX" }"#, ""),
    ("127.0.0.1:5310", r#"dns = { name = "example.org", type = "TXT" }"#, ""),
    ("127.0.0.1:5310", r#"dns = { name = "nobody.example.org", type = "A" }"#, "DNS says NXDOMAIN"),
    ("127.0.0.1:5310", r#"dns = { name = "elsewhere.example.net", type = "A" }"#, "DNS says REFUSED"),
    ("127.0.0.1:5300", r#"dns = { name = "www.example.org", type = "A" }"#, ""),
    ("127.0.0.1:5300", r#"dns = { name = "mail.example.org", type = "MX" }"#, "DNS says NXDOMAIN"),
    ("127.0.0.1:5301", "dns = {}", "port unreachable"),
    ("127.0.0.1:2525", r#"smtp = { helo = "lb.example.org" }"#, ""),
    ("127.0.0.1:8080", r#"smtp = {}"#, "no answer within"),
    ("127.0.0.1:1", "ping = {}", ""),
    ("[::1]:1", "ping = {}", ""),
    ("127.0.0.1:1", r#"process = { name = "dnsmasq" }"#, ""),
    ("127.0.0.1:1", r#"process = { name = "no-such-program" }"#, "no process no-such-program runs"),
];

/// All of [`CHECKS`]. Returns how many there were.
pub fn against_real_servers(dir: &Path) -> Result<u32> {
    let host = Host::new("pool", dir)?;
    let _servers = serve(&host)?;
    let shown = ["-T", "-s", "127.0.0.1", "-p", "8080", "-u", "/page"];
    let genhash = host.output(Path::new("keepalived"), &shown, PATIENCE)?;
    let digest = genhash.split_whitespace().last().context("genhash says nothing")?.to_owned();
    let place = host.dir().display().to_string();
    let fill = |text: &str| text.replace("DIGEST", &digest).replace("DIR", &place);
    for (address, asked, expected) in CHECKS {
        let check = read(host.dir(), &fill(asked))?;
        let address: SocketAddr = address.parse()?;
        let answer = host.netns().run(|| {
            let ask = hamesh::probe::ask(address, &check);
            Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(ask))
        })?;
        let fits = match &answer.said {
            Said::Up(_) => expected.is_empty(),
            Said::Down(why) => !expected.is_empty() && why.starts_with(&fill(expected)),
            Said::Unasked(_) => false,
        };
        ensure!(fits, "{address} {asked}: {answer:?}, wanted {expected:?}");
    }
    println!(
        "{} checks of nginx, haproxy, bind, dnsmasq and opensmtpd answer as they should; genhash has the same digest",
        CHECKS.len()
    );
    Ok(u32::try_from(CHECKS.len())?)
}

/// A check as it is written in cluster.toml.
fn read(dir: &Path, asked: &str) -> Result<config::check::Check> {
    let cluster = format!(
        "[vip.web]\ninterface = \"eth0\"\nvrid = 1\naddresses = [\"10.77.0.100/24\"]\n[service.web]\nvip = \"web\"\n\
         listen = \"10.77.0.100:80\"\nforwarding = \"nat\"\nserver = [{{ address = \"127.0.0.1:1\" }}]\n\
         check = {{ {asked}, interval = \"5s\", timeout = \"4s\" }}\n"
    );
    fs::write(dir.join("cluster.toml"), cluster)?;
    let node = "[node]\nname = \"lb1\"\nlisten = \"10.77.9.9:7112\"\ncluster = \"cluster.toml\"\n";
    fs::write(dir.join("hamesh.toml"), node)?;
    let config = config::load(&dir.join("hamesh.toml")).map_err(|errors| anyhow::anyhow!("{asked}: {errors}"))?;
    config.services["web"].servers[0].checks.first().cloned().context("no check")
}

fn serve(host: &Host) -> Result<Vec<Process>> {
    let dir = host.dir();
    fs::create_dir_all(dir.join("www"))?;
    fs::write(dir.join("www/page"), PAGE)?;
    for name in ["", "other"] {
        let (key, certificate) = if name.is_empty() { ("key", "cert") } else { ("other-key", "other") };
        let mut openssl = Command::new("openssl");
        openssl.args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ]);
        openssl.args(["-subj", "/CN=www.example.org", "-addext", "subjectAltName=DNS:www.example.org", "-addext"]);
        openssl.args(["basicConstraints=critical,CA:FALSE", "-keyout"]).arg(dir.join(format!("{key}.pem")));
        let made = openssl.arg("-out").arg(dir.join(format!("{certificate}.pem"))).output().context("openssl")?;
        ensure!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
    }
    let both = ["cert.pem", "key.pem"].map(|name| fs::read_to_string(dir.join(name)));
    let both = both.into_iter().collect::<Result<String, _>>()?;
    for (name, text) in [
        ("both.pem", both.as_str()),
        ("nginx.conf", NGINX),
        ("haproxy.cfg", HAPROXY),
        ("named.conf", NAMED),
        ("zone", ZONE),
        ("smtpd.conf", SMTPD),
    ] {
        fs::write(dir.join(name), text.replace("DIR", &dir.display().to_string()))?;
    }
    let start = |program: &str, args: &[&str]| {
        let args: Vec<OsString> =
            args.iter().map(|arg| arg.replace("DIR", &dir.display().to_string()).into()).collect();
        host.start(program, Path::new(program), &args, &[])
    };
    let servers = vec![
        start("nginx", &["-p", "DIR", "-c", "DIR/nginx.conf"])?,
        start(
            "dnsmasq",
            &["-d", "-C", "/dev/null", "-p", "5300", "--listen-address=127.0.0.1", "--bind-interfaces", "--no-resolv"]
                .into_iter()
                .chain(["--no-hosts", "--pid-file=", "--user=root", "--local=/example.org/"])
                .chain(["--host-record=www.example.org,10.77.0.100"])
                .collect::<Vec<_>>(),
        )?,
        start("smtpd", &["-d", "-f", "DIR/smtpd.conf"])?,
        start("haproxy", &["-db", "-f", "DIR/haproxy.cfg"])?,
        start("named", &["-g", "-n", "1", "-c", "DIR/named.conf"])?,
    ];
    let began = Instant::now();
    for (port, udp) in
        [(8080, false), (8444, false), (8090, false), (8490, false), (5300, true), (5310, true), (2525, false)]
    {
        let listens = || {
            host.netns().run(|| {
                let table =
                    fs::read_to_string(if udp { "/proc/thread-self/net/udp" } else { "/proc/thread-self/net/tcp" });
                Ok(table.is_ok_and(|table| table.contains(&format!("0100007F:{port:04X} "))))
            })
        };
        while !listens()? {
            ensure!(began.elapsed() < PATIENCE, "nobody listens at port {port}");
            sleep(Duration::from_millis(20));
        }
    }
    Ok(servers)
}
