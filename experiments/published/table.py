"""Every result that can be run again, in the order of their subjects."""

from published import (
    arjovsky2016_copy_memory,
    engelken2023_chaos,
    engelken2023_flossing,
    feng2024_selective_copy,
    ganguli2008_fisher_memory,
    jaeger2001_memory_capacity,
    jozefowicz2015_forget_bias,
    lim2024_newton_in_time,
    lstm_memory_path,
    newman1986_gaussian_products,
    orvieto2023_ring,
    pascanu2013_bounds,
    pascanu2013_temporal_order,
    penson2011_powers,
    sprott2003_exponents,
    zucchet2024_curse_of_memory,
)

RESULTS = (
    pascanu2013_bounds.RESULT,
    lstm_memory_path.RESULT,
    newman1986_gaussian_products.RESULT,
    sprott2003_exponents.RESULT,
    penson2011_powers.RESULT,
    engelken2023_chaos.RESULT,
    zucchet2024_curse_of_memory.RESULT,
    orvieto2023_ring.RESULT,
    ganguli2008_fisher_memory.RESULT,
    jaeger2001_memory_capacity.RESULT,
    jozefowicz2015_forget_bias.RESULT,
    pascanu2013_temporal_order.RESULT,
    arjovsky2016_copy_memory.RESULT,
    feng2024_selective_copy.RESULT,
    engelken2023_flossing.RESULT,
    lim2024_newton_in_time.RESULT,
)
