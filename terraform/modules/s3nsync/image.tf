# --- the worker's image ---------------------------------------------------------------------------------------------
# Given, or built here: then the tag is a digest of the sources, so that the same sources are the same image, a changed
# one is a new deployment, and a tag never changes its meaning.

locals {
  image_sources = sort(flatten([
    for pattern in ["Dockerfile", ".dockerignore", "LICENSE", "requirements/runtime.txt", "src/s3nsync/**/*.py"] :
    tolist(fileset(local.repository_root, pattern))
  ]))
  image_tag = substr(sha256(join("", concat(
    [var.architecture],
    [for name in local.image_sources : "${name}:${filesha256("${local.repository_root}/${name}")}"],
  ))), 0, 16)
  image = var.image != null ? var.image : "${aws_ecr_repository.this[0].repository_url}:${local.image_tag}"
}

resource "aws_ecr_repository" "this" {
  count = var.image == null ? 1 : 0

  name                 = var.name
  image_tag_mutability = "IMMUTABLE"
  force_delete         = true # every image in it can be built again

  image_scanning_configuration {
    scan_on_push = true
  }
  encryption_configuration {
    encryption_type = "KMS"
    kms_key         = local.kms_key_arn
  }

  depends_on = [terraform_data.routes_are_sound, terraform_data.bucket_is_free, terraform_data.endpoint_is_missing]
}

resource "aws_ecr_lifecycle_policy" "this" {
  count = length(aws_ecr_repository.this)

  repository = aws_ecr_repository.this[0].name
  policy = jsonencode({
    rules = [{
      rulePriority = 1
      description  = "Keep the last ten: enough to go back"
      selection    = { tagStatus = "any", countType = "imageCountMoreThan", countNumber = 10 }
      action       = { type = "expire" }
    }]
  })
}

resource "terraform_data" "image" {
  count = length(aws_ecr_repository.this)

  triggers_replace = [local.image_tag, aws_ecr_repository.this[0].repository_url]

  provisioner "local-exec" {
    command = "python3 '${path.module}/scripts/build_image.py'"
    environment = {
      BUILD_IMAGE    = local.image
      BUILD_CONTEXT  = local.repository_root
      BUILD_PLATFORM = var.architecture == "ARM64" ? "linux/arm64" : "linux/amd64"
      BUILD_REGION   = local.region
    }
  }
}
