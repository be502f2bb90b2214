use proptest::prelude::*;

use super::behaviour::*;
use super::characteristic::*;
use super::*;
use crate::spec::choice::{BRANCH_SAFETY, SAFETY};
use crate::spec::speculation::{BranchSafety, Safety};

const EVERY_DEFENCE: u64 = FAVOUR_SECURITY | L1D_FLUSH_PR | BNDS_CHK_SPEC_BAR;
const WAIVERS: u64 = NO_L1D_FLUSH_ENTRY | NO_L1D_FLUSH_UACCESS | NO_STF_BARRIER;
const FLUSHES: u64 = L1D_FLUSH_ORI30 | L1D_FLUSH_TRIG2 | L1D_THREAD_PRIV;

/// KVM's masks on bare metal whose firmware has told its features, as in Linux 6.12
/// (kvmppc_get_cpu_char in arch/powerpc/kvm/powerpc.c).
const CHARACTERISTICS_MASK: u64 =
    SPEC_BAR_ORI31 | BCCTRL_SERIALISED | FLUSHES | COUNT_CACHE_DISABLED | BCCTR_FLUSH_ASSIST;
const BEHAVIOUR_MASK: u64 = EVERY_DEFENCE | FLUSH_COUNT_CACHE;

fn known(characteristics: u64, behaviour: u64) -> Known {
    Known {
        characteristics,
        characteristics_mask: CHARACTERISTICS_MASK,
        behaviour,
        behaviour_mask: BEHAVIOUR_MASK,
    }
}

/// A POWER9 with firmware as IBM ships it.
fn power9() -> Known {
    let helps = SPEC_BAR_ORI31 | L1D_FLUSH_TRIG2 | L1D_THREAD_PRIV | BCCTR_FLUSH_ASSIST;
    known(helps, EVERY_DEFENCE | FLUSH_COUNT_CACHE)
}

/// A processor that needs no defence of the guest's.
fn fixed() -> Known {
    Known {
        characteristics: 0,
        characteristics_mask: CHARACTERISTICS_MASK,
        behaviour: FAVOUR_SECURITY | WAIVERS,
        behaviour_mask: BEHAVIOUR_MASK | WAIVERS,
    }
}

fn wanted_cache(level: Safety) -> Wanted {
    Wanted {
        cache: Some(level),
        ..Wanted::default()
    }
}

fn wanted_checks(level: Safety) -> Wanted {
    Wanted {
        bounds_checks: Some(level),
        ..Wanted::default()
    }
}

fn wanted_branches(level: BranchSafety) -> Wanted {
    Wanted {
        branches: Some(level),
        ..Wanted::default()
    }
}

fn wanted_assist(on: bool) -> Wanted {
    Wanted {
        flush_assist: Some(on),
        ..Wanted::default()
    }
}

fn told(known: &Known, wanted: &Wanted) -> Told {
    Told::as_wanted(known, wanted).expect("promised")
}

fn refusal(known: &Known, wanted: &Wanted) -> String {
    let refused = Told::as_wanted(known, wanted).expect_err("refused");
    refused.to_string()
}

#[test]
fn a_guest_defends_itself_where_kvm_knows_nothing() {
    let told = Told::of(&Known::default());
    assert_eq!(told.characteristics, 0);
    assert_eq!(told.behaviour, EVERY_DEFENCE);
}

#[test]
fn what_kvm_does_not_vouch_for_is_worth_nothing() {
    let without_masks = Known {
        characteristics: u64::MAX,
        behaviour: u64::MAX,
        ..Known::default()
    };
    assert_eq!(Told::of(&without_masks), Told::of(&Known::default()));
}

#[test]
fn what_kvm_vouches_for_is_passed_on() {
    let power9 = power9();
    assert_eq!(Told::of(&power9).characteristics, power9.characteristics);
    assert_eq!(Told::of(&power9).behaviour, power9.behaviour);
    let fixed = fixed();
    assert_eq!(Told::of(&fixed).characteristics, 0);
    assert_eq!(Told::of(&fixed).behaviour, FAVOUR_SECURITY | WAIVERS);
}

#[test]
fn each_needed_defence_is_waived_by_kvm_alone() {
    for (defence, other) in [
        (L1D_FLUSH_PR, BNDS_CHK_SPEC_BAR),
        (BNDS_CHK_SPEC_BAR, L1D_FLUSH_PR),
    ] {
        let mut known = Known {
            behaviour_mask: defence,
            ..Known::default()
        };
        assert_eq!(Told::of(&known).behaviour, FAVOUR_SECURITY | other);
        known.behaviour = defence;
        assert_eq!(Told::of(&known).behaviour, EVERY_DEFENCE);
        known.behaviour_mask = 0;
        assert_eq!(Told::of(&known).behaviour, EVERY_DEFENCE);
    }
}

#[test]
fn a_host_that_prefers_speed_does_not_disarm_its_guests() {
    let speedy = known(0, L1D_FLUSH_PR | BNDS_CHK_SPEC_BAR);
    assert_eq!(Told::of(&speedy).behaviour, EVERY_DEFENCE);
}

#[test]
fn the_count_cache_is_flushed_only_where_that_is_known_to_help() {
    for (known, flushed) in [
        (Known::default(), false),
        (known(0, EVERY_DEFENCE), false),
        (known(0, EVERY_DEFENCE | FLUSH_COUNT_CACHE), true),
    ] {
        let behaviour = Told::of(&known).behaviour;
        assert_eq!(behaviour & FLUSH_COUNT_CACHE != 0, flushed, "{known:?}");
        assert_eq!(behaviour & FLUSH_LINK_STACK, 0, "{known:?}");
    }
}

#[test]
fn broken_tells_the_guest_that_it_is_vulnerable() {
    for known in [Known::default(), power9(), fixed()] {
        let cache = told(&known, &wanted_cache(Safety::Broken));
        assert_eq!(cache.characteristics & FLUSHES, 0, "{known:?}");
        assert_eq!(
            cache.behaviour & (L1D_FLUSH_PR | WAIVERS),
            L1D_FLUSH_PR,
            "{known:?}"
        );
        let checks = told(&known, &wanted_checks(Safety::Broken));
        assert_eq!(checks.characteristics & SPEC_BAR_ORI31, 0, "{known:?}");
        assert_ne!(checks.behaviour & BNDS_CHK_SPEC_BAR, 0, "{known:?}");
    }
    let disabled = known(BCCTRL_SERIALISED | COUNT_CACHE_DISABLED, FLUSH_COUNT_CACHE);
    let branches = told(&disabled, &wanted_branches(BranchSafety::Broken));
    assert_eq!(branches.characteristics, 0);
    let asked_for = branches.behaviour & FLUSH_COUNT_CACHE;
    assert_ne!(asked_for, 0, "a defence that KVM asks for is gone");
}

#[test]
fn a_level_changes_nothing_but_what_it_is_about() {
    let power9 = power9();
    let whole = Told::of(&power9);
    let cache = told(&power9, &wanted_cache(Safety::Broken));
    assert_eq!(cache.characteristics, whole.characteristics & !FLUSHES);
    assert_eq!(cache.behaviour, whole.behaviour);
    let checks = told(&power9, &wanted_checks(Safety::Broken));
    let rest = whole.characteristics & !SPEC_BAR_ORI31;
    assert_eq!(checks.characteristics, rest);
    assert_eq!(checks.behaviour, whole.behaviour);
    for wanted in [
        wanted_branches(BranchSafety::Broken),
        wanted_branches(BranchSafety::Workaround),
        wanted_cache(Safety::Workaround),
        wanted_checks(Safety::Workaround),
        wanted_assist(true),
    ] {
        assert_eq!(told(&power9, &wanted), whole, "{wanted:?}");
    }
    let assist = told(&power9, &wanted_assist(false));
    let rest = whole.characteristics & !BCCTR_FLUSH_ASSIST;
    assert_eq!(
        (assist.characteristics, assist.behaviour),
        (rest, whole.behaviour)
    );
}

#[test]
fn workarounds_need_the_processors_help() {
    let help = |characteristics| known(characteristics, EVERY_DEFENCE);
    for (characteristics, enough) in [
        (0, false),
        (L1D_THREAD_PRIV, false),
        (L1D_FLUSH_TRIG2 | L1D_FLUSH_ORI30, false),
        (L1D_THREAD_PRIV | L1D_FLUSH_ORI30, true),
        (L1D_THREAD_PRIV | L1D_FLUSH_TRIG2, true),
    ] {
        let wanted = wanted_cache(Safety::Workaround);
        let told = Told::as_wanted(&help(characteristics), &wanted);
        assert_eq!(told.is_ok(), enough, "{characteristics:#x}");
    }
    let barrier = wanted_checks(Safety::Workaround);
    assert_eq!(
        refusal(&help(FLUSHES), &barrier),
        "cap-sbbc=workaround: this host's KVM does not promise a speculation barrier; leave \
         cap-sbbc out, and the guest is told what KVM promises and no more"
    );
    assert!(Told::as_wanted(&help(SPEC_BAR_ORI31), &barrier).is_ok());
    let flush = wanted_branches(BranchSafety::Workaround);
    let refused = refusal(&Known::default(), &flush);
    assert!(refused.contains("cap-ibs=workaround"), "{refused}");
    for better in [BCCTRL_SERIALISED, COUNT_CACHE_DISABLED] {
        assert_eq!(told(&help(better), &flush), Told::of(&help(better)));
    }
}

#[test]
fn nothing_is_called_fixed_without_kvms_word() {
    for unknown in [Known::default(), power9()] {
        let refused = refusal(&unknown, &wanted_cache(Safety::Fixed));
        assert_eq!(
            refused,
            "cap-cfpc=fixed: this host's KVM does not promise that the L1 data cache needs \
             no flush; leave cap-cfpc out, and the guest is told what KVM promises and no more"
        );
        for (level, option) in [
            (BranchSafety::FixedIbs, "cap-ibs=fixed-ibs"),
            (BranchSafety::FixedCcd, "cap-ibs=fixed-ccd"),
            (BranchSafety::FixedNa, "cap-ibs=fixed-na"),
        ] {
            let refused = refusal(&unknown, &wanted_branches(level));
            assert!(refused.contains(option), "{refused}");
        }
        let refused = refusal(&unknown, &wanted_checks(Safety::Fixed));
        assert!(refused.contains("cap-sbbc=fixed"), "{refused}");
    }
    let refused = refusal(&Known::default(), &wanted_assist(true));
    assert!(refused.contains("cap-ccf-assist=on"), "{refused}");
    for level in [Safety::Workaround, Safety::Fixed] {
        assert!(Told::as_wanted(&fixed(), &wanted_cache(level)).is_ok());
        assert!(Told::as_wanted(&fixed(), &wanted_checks(level)).is_ok());
    }
    let as_known = told(&fixed(), &wanted_cache(Safety::Fixed));
    assert_eq!(as_known, Told::of(&fixed()));
    let helped = told(&fixed(), &wanted_cache(Safety::Workaround));
    assert_eq!(helped.behaviour, FAVOUR_SECURITY | L1D_FLUSH_PR);
    let branches = wanted_branches(BranchSafety::FixedNa);
    assert!(Told::as_wanted(&fixed(), &branches).is_ok());
}

#[test]
fn of_two_ways_to_be_fixed_the_guest_is_told_the_wanted_one() {
    let both = known(BCCTRL_SERIALISED | COUNT_CACHE_DISABLED, EVERY_DEFENCE);
    for (level, bit) in [
        (BranchSafety::FixedIbs, BCCTRL_SERIALISED),
        (BranchSafety::FixedCcd, COUNT_CACHE_DISABLED),
    ] {
        let told = told(&both, &wanted_branches(level));
        assert_eq!(told.characteristics, bit, "{level:?}");
    }
    let serialised = known(BCCTRL_SERIALISED, EVERY_DEFENCE);
    let wanted = wanted_branches(BranchSafety::FixedCcd);
    assert!(Told::as_wanted(&serialised, &wanted).is_err());
}

fn any_wanted() -> impl Strategy<Value = Wanted> {
    let safety = || {
        prop::option::of(prop::sample::select(
            SAFETY.each_ref().map(|it| it.value).to_vec(),
        ))
    };
    let branches = prop::sample::select(BRANCH_SAFETY.each_ref().map(|it| it.value).to_vec());
    let branches = prop::option::of(branches);
    (safety(), safety(), branches, any::<Option<bool>>()).prop_map(
        |(cache, bounds_checks, branches, flush_assist)| Wanted {
            cache,
            bounds_checks,
            branches,
            flush_assist,
        },
    )
}

proptest! {
    #[test]
    fn no_guest_is_told_that_it_is_safer_than_kvm_knows(
        bits: [u64; 4],
        wanted in any_wanted(),
    ) {
        let known = Known {
            characteristics: bits[0],
            characteristics_mask: bits[1],
            behaviour: bits[2],
            behaviour_mask: bits[3],
        };
        if let Ok(told) = Told::as_wanted(&known, &wanted) {
            let vouched = known.characteristics & known.characteristics_mask;
            prop_assert_eq!(told.characteristics & !vouched, 0);
            let waived = known.behaviour & known.behaviour_mask & WAIVERS;
            prop_assert_eq!(told.behaviour & WAIVERS & !waived, 0);
            let unneeded = !known.behaviour & known.behaviour_mask;
            let needed = (L1D_FLUSH_PR | BNDS_CHK_SPEC_BAR) & !unneeded;
            prop_assert_eq!(told.behaviour & needed, needed);
            let asked_for = known.behaviour & known.behaviour_mask & !WAIVERS;
            prop_assert_eq!(told.behaviour & asked_for, asked_for);
            prop_assert!(told.behaviour & FAVOUR_SECURITY != 0);
        }
    }
}
