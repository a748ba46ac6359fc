# --- where the tasks live -------------------------------------------------------------------------------------------
# Two private subnets in the VPC of the route table that leads to the NAT gateway; or subnets that exist.

locals {
  makes_subnets  = var.nat_route_table_id != null
  makes_endpoint = local.makes_subnets && var.create_s3_endpoint

  vpc_id     = local.makes_subnets ? data.aws_route_table.nat[0].vpc_id : data.aws_subnet.given[var.subnet_ids[0]].vpc_id
  subnet_ids = local.makes_subnets ? aws_subnet.this[*].id : var.subnet_ids
}

# --- the way out that exists ----------------------------------------------------------------------------------------

# The list first: asking for one that does not exist fails with words that help nobody.
data "aws_route_tables" "nat" {
  count = local.makes_subnets ? 1 : 0

  filter {
    name   = "route-table-id"
    values = [var.nat_route_table_id]
  }

  lifecycle {
    postcondition {
      condition     = length(self.ids) == 1
      error_message = "natgwrtid: there is no route table ${var.nat_route_table_id} in ${local.region}. Give the one whose default route leads to your NAT gateway: aws ec2 describe-route-tables --filters Name=route.nat-gateway-id,Values='nat-*'"
    }
  }
}

data "aws_route_table" "nat" {
  count = local.makes_subnets ? 1 : 0

  route_table_id = data.aws_route_tables.nat[0].ids[0]

  lifecycle {
    postcondition {
      condition     = anytrue([for route in self.routes : route.cidr_block == "0.0.0.0/0" && !startswith(route.gateway_id, "igw-")])
      error_message = "natgwrtid: ${var.nat_route_table_id} has no default route (0.0.0.0/0) to a NAT gateway. Tasks there have no public address, so they would reach neither AWS nor NetStorage."
    }
  }
}

# --- two new subnets ------------------------------------------------------------------------------------------------

data "aws_vpc" "this" {
  count = local.makes_subnets ? 1 : 0
  id    = local.vpc_id
}

data "aws_subnets" "taken" {
  count = local.makes_subnets ? 1 : 0

  filter {
    name   = "vpc-id"
    values = [local.vpc_id]
  }
}

data "aws_subnet" "taken" {
  for_each = toset(local.makes_subnets ? data.aws_subnets.taken[0].ids : [])
  id       = each.key
}

data "aws_availability_zones" "this" {
  #checkov:skip=CKV_AWS_394: zones are chosen once and kept, in terraform_data.subnets
  state = "available"

  filter {
    name   = "opt-in-status"
    values = ["opt-in-not-required"] # no local zones: Fargate is not in all of them
  }

  # Nor is it in all zones of three regions: Amazon ECS Developer Guide, "Supported Regions for Amazon ECS on AWS Fargate".
  exclude_zone_ids = ["usw1-az2", "apne1-az3", "cnn1-az3", "cnn1-az4"]
}

locals {
  subnet_tag = "s3nsync:deployment" # tells our own subnets from those that were there

  vpc_cidr = one(data.aws_vpc.this[*].cidr_block)
  vpc_bits = try(tonumber(split("/", local.vpc_cidr)[1]), 16)

  # At least a /28, the smallest that AWS makes; a /24 where the VPC is large: each task takes one address.
  candidate_bits = max(24, min(28, local.vpc_bits + 4))
  candidates = !local.makes_subnets ? [] : [
    for number in range(pow(2, local.candidate_bits - local.vpc_bits)) :
    cidrsubnet(local.vpc_cidr, local.candidate_bits - local.vpc_bits, number)
  ]
  taken = [for subnet in data.aws_subnet.taken : subnet.cidr_block if lookup(subnet.tags, local.subnet_tag, "") != var.name]

  # Two ranges overlap where they are equal in the bits of the shorter prefix.
  is_taken = {
    for mine in distinct(concat(local.candidates, coalesce(var.subnet_cidrs, []))) : mine => anytrue([
      for theirs in local.taken :
      cidrhost("${split("/", mine)[0]}/${min(split("/", mine)[1], split("/", theirs)[1])}", 0) ==
      cidrhost("${split("/", theirs)[0]}/${min(split("/", mine)[1], split("/", theirs)[1])}", 0)
    ])
  }
  free        = [for mine in local.candidates : mine if !local.is_taken[mine]]
  highest     = slice(reverse(local.free), 0, min(2, length(local.free)))
  overlapping = [for mine in coalesce(var.subnet_cidrs, []) : mine if local.is_taken[mine]]

  # A VPC may have more than one range; a subnet lies in one of them.
  vpc_cidrs = distinct(concat(data.aws_vpc.this[*].cidr_block, flatten(data.aws_vpc.this[*].cidr_block_associations[*].cidr_block)))
  outside = [
    for mine in coalesce(var.subnet_cidrs, []) : mine
    if !anytrue([
      for vpc in local.vpc_cidrs :
      split("/", mine)[1] >= split("/", vpc)[1] &&
      cidrhost("${split("/", mine)[0]}/${split("/", vpc)[1]}", 0) == cidrhost(vpc, 0)
    ])
  ]
}

# Chosen once and kept: what others add to the VPC later must not move us.
resource "terraform_data" "subnets" {
  count = local.makes_subnets ? 1 : 0

  input = {
    zones = [for number in range(2) : element(data.aws_availability_zones.this.names, number)] # an account may see one only
    cidrs = var.subnet_cidrs != null ? var.subnet_cidrs : local.highest
  }

  lifecycle {
    ignore_changes = [input]

    precondition {
      condition     = var.subnet_cidrs != null || length(local.highest) == 2
      error_message = "The VPC ${local.vpc_id} (${local.vpc_cidr}) has no two free ranges of /${local.candidate_bits} left. Give subnet_ids of existing subnets, or subnet_cidrs from another range of the VPC."
    }
    precondition {
      condition     = length(local.outside) == 0
      error_message = "subnet_cidrs: ${join(", ", local.outside)} is not within ${local.vpc_id} (${join(", ", local.vpc_cidrs)}). Leave subnet_cidrs out to have free ranges chosen: ${join(" and ", local.highest)}."
    }
    precondition {
      condition     = length(local.overlapping) == 0
      error_message = "subnet_cidrs: ${join(", ", local.overlapping)} overlaps a subnet of ${local.vpc_id}. Leave subnet_cidrs out to have free ranges chosen: ${join(" and ", local.highest)}."
    }
  }

  depends_on = [terraform_data.routes_are_sound, terraform_data.bucket_is_free, terraform_data.endpoint_is_missing]
}

resource "aws_subnet" "this" {
  count = local.makes_subnets ? 2 : 0

  vpc_id            = local.vpc_id
  availability_zone = terraform_data.subnets[0].output.zones[count.index]
  cidr_block        = var.subnet_cidrs != null ? var.subnet_cidrs[count.index] : terraform_data.subnets[0].output.cidrs[count.index]
  tags              = { Name = "${var.name}-${count.index + 1}", (local.subnet_tag) = var.name }
}

resource "aws_route_table_association" "this" {
  count = length(aws_subnet.this)

  subnet_id      = aws_subnet.this[count.index].id
  route_table_id = var.nat_route_table_id
}

resource "aws_vpc_endpoint" "s3" {
  count = local.makes_endpoint ? 1 : 0

  vpc_id            = local.vpc_id
  service_name      = "com.amazonaws.${local.region}.s3"
  vpc_endpoint_type = "Gateway"
  route_table_ids   = [var.nat_route_table_id]
  tags              = { Name = "${var.name}-s3" }

  depends_on = [terraform_data.routes_are_sound, terraform_data.bucket_is_free, terraform_data.endpoint_is_missing]
}

# --- or existing ones -----------------------------------------------------------------------------------------------

data "aws_subnet" "given" {
  for_each = toset(var.subnet_ids)
  id       = each.key
}

# --- out, and nothing in --------------------------------------------------------------------------------------------

resource "aws_security_group" "worker" {
  name        = "${var.name}-worker"
  description = "s3nsync tasks: HTTPS out, nothing in"
  vpc_id      = local.vpc_id

  lifecycle {
    precondition {
      condition     = length(distinct([for subnet in data.aws_subnet.given : subnet.vpc_id])) <= 1
      error_message = "subnet_ids: they are in different VPCs; a service's subnets must be in one."
    }
  }

  depends_on = [terraform_data.routes_are_sound, terraform_data.bucket_is_free, terraform_data.endpoint_is_missing]
}

resource "aws_vpc_security_group_egress_rule" "https" {
  security_group_id = aws_security_group.worker.id
  description       = "AWS and NetStorage"
  cidr_ipv4         = "0.0.0.0/0" # Akamai publishes no fixed addresses for NetStorage
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}
