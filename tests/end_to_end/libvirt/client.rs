//! A client library that others wrote: the Python package qemu.qmp.

use crate::harness::libvirt::{Description, inside, start};

const CLIENT: &str = "
import asyncio, sys
from qemu.qmp import QMPClient, EventListener, ExecuteError

async def main():
    client = QMPClient('test')
    await client.connect(sys.argv[1])
    with client.listener(('STOP', 'RESUME')) as listener:
        print('status', (await client.execute('query-status'))['status'])
        await client.execute('stop')
        print('event', (await listener.get())['event'])
        print('status', (await client.execute('query-status'))['status'])
        await client.execute('cont')
        print('event', (await listener.get())['event'])
    print('processors', len(await client.execute('query-cpus-fast')))
    try:
        await client.execute('device_add', {'driver': 'e1000'})
    except ExecuteError as error:
        print('error', error.error_class)
    await client.disconnect()
    print('done')

asyncio.run(main())
";

#[test]
fn the_python_package_qemu_qmp_drives_a_guest() {
    start();
    let domain = Description::new("client").own_options("log=info").define();
    domain.start();
    std::fs::write("/tmp/client.py", CLIENT).expect("write");
    let socket = format!(
        "/var/lib/libvirt/qemu/domain-1-{}/monitor.sock",
        domain.name
    );
    let found = inside(&[
        "sh",
        "-c",
        "ls -d /var/lib/libvirt/qemu/domain-*-client/monitor.sock",
    ]);
    let socket = found.lines().next().unwrap_or(&socket).to_owned();
    let said = inside(&["python3", "/tmp/client.py", &socket]);
    let lines: Vec<&str> = said.lines().collect();
    let expected = [
        "status running",
        "event STOP",
        "status paused",
        "event RESUME",
        "processors 2",
        "error CommandNotFound",
        "done",
    ];
    assert_eq!(lines, expected, "{said}");
}
