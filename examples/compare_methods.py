"""The same data with the volume described in two ways: a spherical-Bessel ball, and voxels; priors are values too."""

import unpicked as up


def main(size: int = 128, iterations: int = 6) -> dict[str, float]:
    specimen = up.specimen_from_map(up.shepp_logan(32, 1.0), box=8)
    micrographs, truth = up.simulate_micrographs(
        specimen, count=2, size=(size, size), density=0.12, noise=up.snr_box(5.0), seed=3
    )
    prepared = up.prepare(micrographs).micrographs
    objectives = {}
    for name, volume in (("ball", up.Ball(8, 5)), ("voxels", up.Voxels(8))):
        model = up.Model(volume, up.Projection(up.so3_grid(60)), up.Anywhere(density=0.1))
        run = up.reconstruct(
            prepared, model, up.EM(iterations=iterations, frozen=2), prior=up.Ridge(0.5), seed=4, moves=0
        )
        objectives[name] = run.objective
        print(f"{name}: objective {run.objective:.1f}, sigma {run.model.noise.sigma:.3f}; {run.result.value}")
    print(f"{truth.per_micrograph * truth.count} particles in the data")
    return objectives


if __name__ == "__main__":
    main()
