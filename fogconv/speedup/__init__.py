"""The analytic model of Dey et al. (CitiFog 2018): bound, trigger, calculator, plots."""
