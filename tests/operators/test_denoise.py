from plugip.operators import Denoise

SHAPE = (2, 3, 4, 5)


def test_is_the_identity(tools):
    x = tools.normal(*SHAPE)
    for same in (Denoise()(x), Denoise().adjoint(x), Denoise().pinv(x)):
        tools.close(same, x, 0)


def test_is_a_linear_operator(tools):
    A = Denoise()
    tools.adjoint(A, SHAPE)
    tools.spectrum(A, SHAPE)
    tools.penrose(A, SHAPE)
    tools.split(A, SHAPE)
