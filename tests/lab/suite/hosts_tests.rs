use super::*;

fn filters(filters: &[&str]) -> Vec<String> {
    filters.iter().map(|&filter| filter.to_owned()).collect()
}

fn args(host: &[HostKind], filter: &[&str]) -> TestArgs {
    TestArgs {
        kernels: KernelArgs::default(),
        host: host.to_vec(),
        lpar: Vec::new(),
        device: Vec::new(),
        with_libvirt: false,
        filter: filters(filter),
    }
}

fn lanes(args: &TestArgs) -> [Vec<(String, Tests)>; 2] {
    let lanes: [Vec<Wanted>; 2] = wanted(args).into();
    let title = |wanted: Wanted| {
        let title = wanted.title();
        (title["emulated host ".len()..].to_owned(), wanted.tests)
    };
    lanes.map(|hosts| hosts.into_iter().map(title).collect())
}

fn named(hosts: &[(&str, Tests)]) -> Vec<(String, Tests)> {
    let name = |(name, tests): &(&str, Tests)| ((*name).to_owned(), *tests);
    hosts.iter().map(name).collect()
}

#[test]
fn a_run_of_everything_has_each_host_and_a_newer_kernel_in_two_lanes() {
    let every = Tests::OfEveryHost;
    let [main, others] = lanes(&args(&[], &[]));
    assert_eq!(main, named(&[("p9-64k", Tests::FirstLane)]));
    let expected = [
        ("p9-64k, second lane", Tests::SecondLane),
        ("p9-64k, interrupt lines", Tests::Lines),
        ("p9-4k", every),
        ("p9-64k, forky", every),
        ("lpar9-64k", every),
        ("p10-64k", every),
        ("lpar9-4k", every),
    ];
    assert_eq!(others, named(&expected));
    let mut with_libvirt = args(&[], &[]);
    with_libvirt.with_libvirt = true;
    let [_, others] = lanes(&with_libvirt);
    assert_eq!(others[0], ("p9-64k, libvirt".to_owned(), Tests::Libvirt));
    assert_eq!(others.len(), 8);
}

#[test]
fn a_kernel_that_is_named_is_every_hosts() {
    let mut args = args(&[], &[]);
    args.kernels.kernel = HostKernel::Forky;
    let [main, others] = lanes(&args);
    assert_eq!(main, named(&[("p9-64k, forky", Tests::FirstLane)]));
    let expected = [
        ("p9-64k, forky, second lane", Tests::SecondLane),
        ("p9-64k, forky, interrupt lines", Tests::Lines),
        ("p9-4k, forky", Tests::OfEveryHost),
        ("lpar9-64k, forky", Tests::OfEveryHost),
        ("p10-64k, forky", Tests::OfEveryHost),
        ("lpar9-4k, forky", Tests::OfEveryHost),
    ];
    assert_eq!(others, named(&expected));
}

#[test]
fn a_host_or_a_filter_runs_all_that_fits_but_for_libvirt_and_long_ones_when_named() {
    let [main, others] = lanes(&args(&[MAIN_HOST], &["dma"]));
    assert_eq!(main, named(&[("p9-64k", Tests::All)]));
    assert_eq!(others, []);
    let [main, others] = lanes(&args(&[], &["kexec"]));
    assert_eq!(main, named(&[("p9-64k", Tests::All)]));
    assert_eq!(others.len(), 4);
    let [main, others] = lanes(&args(&[], &["libvirt::domain"]));
    assert_eq!(main, []);
    assert_eq!(others, named(&[("p9-64k, libvirt", Tests::Libvirt)]));
    let [_, others] = lanes(&args(&[HostKind::Lpar9Pages64k], &["libvirt::domain"]));
    assert_eq!(others, named(&[("lpar9-64k, libvirt", Tests::Libvirt)]));
    let [main, others] = lanes(&args(&[], &["long::"]));
    let expected = [
        ("p9-64k, long ones", Tests::Long),
        ("p9-64k, forky, long ones", Tests::Long),
    ];
    assert_eq!(main[..2], named(&expected));
    let devices = ["p9-64k", "lpar9-64k"].into_iter().flat_map(|host| {
        devices::LONGEST.map(|module| (format!("{host}, {module}"), Tests::LongDevices(module)))
    });
    assert_eq!(main[2..6], devices.collect::<Vec<_>>());
    let libvirt = [("p9-64k, libvirt, long ones", Tests::LongLibvirt)];
    assert_eq!(main[6..], named(&libvirt));
    assert_eq!(others.len(), 8);
}

#[test]
fn a_run_of_everything_leaves_some_modules_to_other_hosts_and_a_named_host_runs_them() {
    let arguments = |kind, filter: &[&str]| {
        let host = Wanted {
            kind,
            kernels: KernelArgs::default(),
            tests: Tests::OfEveryHost,
        };
        host.arguments(&filters(filter))
    };
    let reboot = "--skip every_host::reboot::";
    assert!(arguments(HostKind::P10Pages64k, &[]).contains(reboot));
    assert!(!arguments(HostKind::P9Pages4k, &[]).contains(reboot));
    assert!(!arguments(HostKind::P10Pages64k, &["reboot"]).contains(reboot));
    let [main, others] = lanes(&args(&[HostKind::P10Pages64k], &[]));
    assert_eq!((main.len(), others[0].1), (0, Tests::All));
    let [_, others] = lanes(&args(&[HostKind::Lpar9Pages4k], &[]));
    assert_eq!(others[0].1, Tests::WholeOfEveryHost);
}

#[test]
fn a_host_that_cannot_do_its_work_runs_nothing_unless_it_is_named() {
    let of = |kind| {
        let mut args = args(&[], &[]);
        args.kernels.kernel = HostKernel::Forky;
        args.host.extend(kind);
        without_defects(wanted(&args).1, &args).len()
    };
    assert_eq!(of(None), 5);
    assert_eq!(of(Some(HostKind::P10Pages64k)), 1);
}

#[test]
fn the_program_of_tests_is_told_what_to_skip_and_what_to_run() {
    let skips = |modules: &[&str]| {
        let skips = modules.iter().map(|module| format!("--skip {module}"));
        skips.collect::<Vec<_>>().join(" ")
    };
    let first = [&["libvirt::", "long::", LINE_TESTS][..], &SECOND_LANE_TESTS].concat();
    assert_eq!(Tests::FirstLane.arguments(&[]), skips(&first));
    let second = SECOND_LANE_TESTS
        .map(|module| format!("'{module}'"))
        .join(" ");
    assert_eq!(
        Tests::SecondLane.arguments(&[]),
        format!("--skip long:: {second}")
    );
    assert_eq!(
        Tests::Lines.arguments(&[]),
        "--skip long:: 'main_host::interrupt_lines::'"
    );
    let every = skips(&["libvirt::", "long::", "main_host::", KERNEL_TESTS]);
    assert_eq!(Tests::OfEveryHost.arguments(&[]), every);
    let every = "--skip libvirt:: --skip long:: --skip main_host:: 'dma'";
    assert_eq!(Tests::OfEveryHost.arguments(&filters(&["dma"])), every);
    let all = "--skip libvirt:: --skip long:: 'dma' 'kexec'";
    assert_eq!(Tests::All.arguments(&filters(&["dma", "kexec"])), all);
    assert_eq!(
        Tests::Libvirt.arguments(&filters(&["libvirt::probe"])),
        "--skip long:: 'libvirt::probe'"
    );
    assert_eq!(
        Tests::Libvirt.arguments(&filters(&["libvirt::long::"])),
        "'libvirt::long::'"
    );
    let long = filters(&["long::"]);
    let devices = skips(&devices::LONGEST);
    assert_eq!(
        Tests::Long.arguments(&long),
        format!("--skip libvirt:: {devices} 'long::'")
    );
    assert_eq!(
        Tests::LongOfEveryHost.arguments(&long),
        format!("--skip libvirt:: --skip main_host:: {devices} 'long::'")
    );
    let one = filters(&["every_device::long::"]);
    assert_eq!(
        Tests::Long.arguments(&one),
        "--skip libvirt:: 'every_device::long::'"
    );
    let [module, _] = devices::LONGEST;
    assert_eq!(
        Tests::LongDevices(module).arguments(&long),
        format!("'{module}'")
    );
    assert_eq!(
        Tests::LongLibvirt.arguments(&long),
        "'libvirt::long::' 'libvirt::terminals::long::'"
    );
}

#[test]
fn tests_of_devices_run_where_those_are() {
    let arguments = |kind, tests| Wanted::new(kind, KernelArgs::default(), tests).arguments(&[]);
    let virtual_functions = "--skip every_host::virtual_functions::";
    let every_device = "--skip every_host::every_device::";
    for (kind, tests, skipped) in [
        (MAIN_HOST, Tests::All, [true, true]),
        (MAIN_HOST, Tests::Long, [true, false]),
        (HostKind::P9Pages4k, Tests::LongOfEveryHost, [false, true]),
        (
            HostKind::Lpar9Pages64k,
            Tests::LongOfEveryHost,
            [true, false],
        ),
        (HostKind::P10Pages64k, Tests::LongOfEveryHost, [true, true]),
    ] {
        let arguments = arguments(kind, tests);
        let found = [virtual_functions, every_device].map(|it| arguments.contains(it));
        assert_eq!(found, skipped, "{arguments}");
    }
}
